"""The page that one looks at in the morning: what last night gave, whether it is served, and what stood in the way.

`gathered` reads everything without Spark, `page` writes it down as one HTML file that asks for nothing from outside.
"""
