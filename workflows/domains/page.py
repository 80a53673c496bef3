"""The results of `star-ctr domains` as one HTML page: tables, dot plots with intervals, and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from star_ctr.workflows.domains.effects import Effect, Family
from star_ctr.workflows.domains.run import DomainMetrics, Results
from star_ctr.workflows.report.charts import Difference, draw_forest
from star_ctr.workflows.report.formatting import NONE, format_number
from star_ctr.workflows.report.page import render_page

TITLES = {"gauc": "GAUC", "auc": "AUC", "log_loss": "Log loss"}
"""Names of the metrics, the main one first."""
_COLORS = {True: "24,121,78", False: "194,48,63"}
"""Colors of improvements and deteriorations in the heat maps, blended with the background of the page."""


def render(results: Results, command: str) -> str:
    """Return the HTML of the page.

    Args:
        results: The results.
        command: The command line that writes the page, for the footer.
    """
    titles: dict[Family, str] = {"gain": "gain from the others", "others": "effect on the others"}
    forests = [_render_forest(results, family, m, title) for m in TITLES for family, title in titles.items()]
    return render_page(
        f"{results.name}: domains",
        command,
        headline=_render_headline(results),
        by_domain=_render_table(results),
        columns="".join(forests),
        halves="".join(_render_heat_map(results, metric) for metric in TITLES),
        record=_render_method(results),
    )


def select_effects(results: Results, family: Family, metric: str = "gauc") -> list[Effect]:
    """Return the effects of a family on a metric, in the order of the domains."""
    return [e for e in results.effects if e.family == family and e.metric == metric]


def describe_findings(results: Results) -> list[str]:
    """Return sentences with the significant effects on GAUC; empty if there are none."""
    verdicts: dict[str, list[str]] = {}
    families: tuple[Family, ...] = ("others", "gain")
    for family in families:
        for effect in select_effects(results, family):
            if effect.is_significant:
                verdicts.setdefault(effect.verdict, []).append(effect.domain)
    return [_describe(v, verdicts[v]) for v in ("harms", "helps", "gains", "is harmed") if v in verdicts]


def _describe(verdict: str, domains: Sequence[str]) -> str:
    """Return a sentence about the domains with a verdict."""
    is_one = len(domains) == 1
    names = domains[0] if is_one else f"{', '.join(domains[:-1])} and {domains[-1]}"
    match verdict:
        case "harms":
            verb, it = ("harms", "it") if is_one else ("harm", "them")
            return f"{names} {verb} the other domains; consider excluding {it} (trainer.data.exclude_domains)"
        case "helps":
            return f"{names} {'helps' if is_one else 'help'} the other domains"
        case "gains":
            return f"{names} {'gains' if is_one else 'gain'} from the other domains"
        case _:
            verb, it = ("is", "it") if is_one else ("are", "each of them")
            return f"{names} {verb} harmed by the other domains; consider training {it} alone (trainer.data.domains)"


def _render_headline(results: Results) -> str:
    findings = describe_findings(results)
    kind = "bad" if any("harm" in text for text in findings) else "good" if findings else "none"
    title = escape(findings[0]) if findings else "No significant effect"
    rest = "".join(f"<p>{escape(text)}.</p>" for text in findings[1:])
    seeds = "1 seed" if results.seeds == 1 else f"{results.seeds} seeds"
    lead = f"{escape(results.name)} · what the domains gain from each other · {', '.join(results.nights)} · {seeds}"
    left_out = ""
    if results.left_out:
        names = ", ".join(f"{escape(d)} ({n:,})" for d, n in results.left_out.items())
        left_out = (
            f'<p class="small">Not analyzed, because they have fewer than {results.min_clicks:,} clicks in the '
            f"training rows: {names}. Their rows are part of the joint model and of the other domains.</p>"
        )
    return f'<header class="{kind}"><p class="lead">{lead}</p><h1>{title}</h1>{rest}{left_out}</header>'


def _render_table(results: Results) -> str:
    head = (
        "domain", "training clicks", "test clicks", "GAUC alone", "GAUC joint", "gain from the others",
        "effect on the others", "GAUC of others’ model", "PCOC alone", "PCOC joint",
    )  # fmt: skip
    gains = {e.domain: e for e in select_effects(results, "gain")}
    others = {e.domain: e for e in select_effects(results, "others")}
    rows = []
    for d in results.domains:
        metrics = d.metrics
        cells = [
            f"{d.train_clicks:,}",
            f"{d.test_clicks:,}",
            format_number(metrics["alone"]["gauc"]),
            format_number(metrics["joint"]["gauc"]),
            _format_effect(gains[d.domain]),
            _format_effect(others[d.domain]),
            format_number(metrics["without"]["gauc"]),
            format_number(metrics["alone"]["pcoc"], 3),
            format_number(metrics["joint"]["pcoc"], 3),
        ]
        rows.append(f"<tr><th>{escape(d.domain)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    header = "".join(f"<th>{h}</th>" for h in head)
    return (
        '<section><h2>Domains</h2><div class="wide"><table>'
        f"<thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Effects are differences of GAUC with their intervals; positive means that training together '
        "is better. “GAUC of others’ model” is that of the model without the domain’s own rows, which scores them like "
        "those of an unknown domain.</p></section>"
    )


def _format_effect(effect: Effect) -> str:
    """Return an effect as the HTML of a table cell."""
    if effect.value is None:
        return NONE
    kind = ("good" if effect.value > 0 else "bad") if effect.is_significant else "flat"
    interval = "" if effect.low is None else f"<small>{effect.low:+.4f} to {effect.high:+.4f}</small>"
    return f'{effect.value:+.4f}{interval}<small class="{kind}">{effect.verdict}</small>'


def _render_forest(results: Results, family: Family, metric: str, title: str) -> str:
    name = f"{TITLES[metric]}: {title}"
    spans = [
        Difference(e.domain, e.low, e.value, e.high, e.is_significant) for e in select_effects(results, family, metric)
    ]
    return f"<section><h2>{name}</h2>{draw_forest(name, spans, emphasize_first=False)}</section>"


def _render_heat_map(results: Results, metric: str) -> str:
    names = [d.domain for d in results.domains]
    effects = {(e.domain, e.on): e for e in select_effects(results, "pair", metric)}
    effects |= {(e.domain, None): e for e in select_effects(results, "others", metric)}
    largest = max((abs(e.value) for e in effects.values() if e.value is not None), default=0.0) or 1.0
    rows = []
    for domain in names:
        cells = [_render_cell(effects.get((domain, on)), largest) for on in (*names, None)]
        rows.append(f"<tr><th>{escape(domain)}</th>{''.join(cells)}</tr>")
    header = "".join(f"<th>{escape(on)}</th>" for on in (*names, "all others"))
    return (
        f'<section><h2>{TITLES[metric]}: effect of each domain (row) on the others (columns)</h2><div class="wide">'
        f"<table><thead><tr><th></th>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Green: the rows of the domain help. Red: they harm. *: significant.</p></section>'
    )


def _render_cell(effect: Effect | None, largest: float) -> str:
    if effect is None or effect.value is None:
        return f"<td>{NONE if effect else ''}</td>"
    share = 0.6 * abs(effect.value) / largest
    text = f"<b>{effect.value:+.4f}*</b>" if effect.is_significant else f"{effect.value:+.4f}"
    return f'<td style="background:rgba({_COLORS[effect.value > 0]},{share:.2f})">{text}</td>'


def _render_method(results: Results) -> str:
    seeds = (
        "They do not include the variation between seeds, because there is only one."
        if results.seeds == 1
        else "They include the variation between users of the test day and between seeds."
    )
    lines = [
        "Gain: the joint model minus a model that is trained on the domain alone, on the domain’s test rows.",
        "Effect on the others: the joint model minus a model that is trained on all rows except the domain’s, on the "
        "test rows of the other domains. For the log loss, the sign is reversed: positive is always better.",
        f"Intervals have a level of {100 * results.level:g}%. {seeds}",
        "Significance includes Holm’s correction for the number of domains (in heat maps, of pairs), so an interval "
        f"that does not contain 0 is not enough. The family-wise error rate is {100 * (1 - results.level):.3g}%.",
        "All models see the same features. Statistics also count events of domains that a model is not trained on.",
    ]
    return f"<section><h2>Method</h2><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul></section>"


def describe_domain(d: DomainMetrics, gain: Effect, others: Effect) -> dict[str, object]:
    """Return the row of a domain for the terminal."""
    return {
        "domain": d.domain,
        "clicks": d.train_clicks,
        "alone": d.metrics["alone"]["gauc"],
        "joint": d.metrics["joint"]["gauc"],
        "gain": _format_text(gain),
        "from the others": _shorten(gain.verdict),
        "effect": _format_text(others),
        "on the others": _shorten(others.verdict),
    }


def _shorten(verdict: str) -> str:
    """Return a verdict for a narrow table."""
    return "unclear" if verdict.startswith("no ") else verdict


def _format_text(effect: Effect) -> str:
    if effect.value is None or effect.low is None or effect.high is None:
        return NONE
    return f"{effect.value:+.4f} ±{(effect.high - effect.low) / 2:.4f}"
