"""The dashboard for Grafana: its queries name metrics and labels that there are, and its panels don't overlap."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.alerts.promtool import needs_promtool
from tests.support.local_broker import Server
from tests.support.waiting import WAIT_SECONDS

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that the broker doesn't set on its series."""


async def test_queries_name_metrics_and_labels_that_there_are(server: Server) -> None:
    samples = [sample for family in server.node.metrics.registry.collect() for sample in family.samples]
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set(OF_PROMETHEUS)).update(sample.labels)
    for query in QUERIES:
        metrics = re.findall(r"\b(?:broker|process)_\w+", query)
        assert metrics, query
        known = set.union(*[labels[metric] for metric in metrics])
        for names in re.findall(r"by \(([^)]*)\)", query):
            assert set(names.split(", ")) <= known, query


@needs_promtool
def test_queries_are_promql(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
    rules = []
    for number, query in enumerate(QUERIES):
        for name, value in variables.items():
            query = query.replace(name, value)
        rules.append({"record": f"query_{number}", "expr": query})
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_queries_ask_only_for_the_instances_that_are_chosen() -> None:
    chosen = '{job=~"$job",instance=~"$instance"}'
    for query in QUERIES:
        assert len(re.findall(r"\b(?:broker|process)_\w+", query)) == query.count(chosen), query


def test_legends_name_labels_of_their_query() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            kept = {
                name for names in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in names.split(", ")
            }
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert named <= (kept or {"instance"}), (panel["title"], target)


def test_panels_have_titles_and_explanations_and_do_not_overlap() -> None:
    def cells(panel: Any) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))

    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for one, other in itertools.combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_grafana_finds_the_data_source_and_the_folder() -> None:
    (source,) = YAML(typ="safe").load(FOLDER / "datasource.yml")["datasources"]
    assert source["type"] == "prometheus"
    compose = YAML(typ="safe").load(FOLDER.parent / "compose.yaml")
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]
    (provider,) = YAML(typ="safe").load(FOLDER / "dashboards.yml")["providers"]
    mounts = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in mounts
