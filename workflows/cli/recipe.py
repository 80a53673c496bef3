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
            help="Choose the recipe again, for the size of the training data today. Later nights then train other "
            "runs, which the gate compares with the serving model.",
        ),
    ] = False,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Show the model and trainer settings that were chosen for the size of the data.

    With preset: auto (the default), settings that the YAML file does not contain come from the recipe of the warehouse.
    It is chosen once, after the first features, so that the models of all nights are comparable.

    For example:

        star-ctr recipe --conf mine.yaml
    """
    from star_ctr.conf.errors import UserError
    from star_ctr.conf.load import load
    from star_ctr.conf.recipe import list_own_values, read_recipe, write_recipe
    from star_ctr.conf.settings.root import Settings
    from star_ctr.jobs.registry.recipes import choose_recipe, describe_size
    from star_ctr.workflows.nightly import choose_night
    from star_ctr.workflows.terminal import make_table

    settings = load(conf, set or [], with_recipe=False)
    if settings.preset == "paper":
        raise UserError(f"{conf}: there is no recipe with `preset: paper`; remove this key to use one")

    def action(settings: Settings, spark: Any) -> None:
        night = choose_night(settings, spark, "split", ds)
        write_recipe(settings.paths, choose_recipe(settings, spark, night))

    if renew:
        with_spark("recipe", conf, set, action, writes=True, wait=wait)
    found = read_recipe(settings.paths)
    if found is None:
        raise UserError(
            f"{settings.paths.warehouse}: no recipe yet; run `star-ctr nightly --conf {conf}`, or `star-ctr recipe "
            "--renew` after `star-ctr features`"
        )
    own = list_own_values(settings, found.values)
    rows = [
        {"setting": k, "value": str(v), "used": "no, the YAML file sets it" if k in own else "yes"}
        for k, v in found.values.items()
    ]
    title = f"chosen for {describe_size(found.size)} (night {found.ds})"
    print_result(found.model_dump(mode="json"), json, lambda: make_table(rows, ["setting", "value", "used"], title))
