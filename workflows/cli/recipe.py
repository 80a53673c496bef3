"""Command that shows or renews the recipe of a data set: `recipe`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark


@app.command()
def recipe(
    conf: Conf,
    set: Set = None,
    renew: Annotated[
        bool,
        typer.Option(
            "--renew",
            help="Choose a new recipe for the current size of the training data. If a value changes, so do the run "
            "ids: past nights show as missing.",
        ),
    ] = False,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Show the recipe: model and trainer settings chosen for the size of the data.

    With preset: auto (the default), the recipe sets the batch size, the layers, the learning rates and a few more keys,
    unless the YAML file sets them. It is chosen once, after the first `features` step, so the models of all nights are
    comparable.

    --ds and --wait apply to --renew only; --ds is the night whose training rows are counted.

    For example:

        star-ctr recipe --conf mine.yaml

        star-ctr recipe --conf mine.yaml --renew
    """
    from star_ctr.conf.errors import UserError
    from star_ctr.conf.load import load
    from star_ctr.conf.recipe import list_overridden_keys, read_recipe, write_recipe
    from star_ctr.conf.settings.root import Settings
    from star_ctr.jobs.registry.recipes import choose_recipe, describe_size
    from star_ctr.workflows.nightly import choose_night
    from star_ctr.workflows.terminal import make_table

    settings = load(conf, set or [], with_recipe=False)
    if settings.preset == "paper":
        raise UserError(f"{conf}: `preset: paper` turns the recipe off; set `preset: auto` to use one")

    def action(settings: Settings, spark: Any) -> None:
        night = choose_night(settings, spark, "split", ds)
        write_recipe(settings.paths, choose_recipe(settings, spark, night))

    if renew:
        with_spark("recipe", conf, set, action, writes=True, wait=wait, with_recipe=False)
    found = read_recipe(settings.paths)
    if found is None:
        raise UserError(
            f"{settings.paths.warehouse}: no recipe yet; run a night (`star-ctr nightly --conf {conf}`), or run "
            f"`star-ctr features --conf {conf}` and then `star-ctr recipe --conf {conf} --renew`"
        )
    overridden = list_overridden_keys(settings, found.settings)
    rows = [
        {"setting": key, "value": str(value), "overridden": "yes" if key in overridden else "no"}
        for key, value in found.settings.items()
    ]
    title = f"chosen for {describe_size(found.size)} (night {found.ds})"
    result = {**found.model_dump(mode="json"), "overridden": overridden}
    print_result(result, json, lambda: make_table(rows, ["setting", "value", "overridden"], title))
