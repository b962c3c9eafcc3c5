"""The tables of docs/scaling.md: recipes on the slices they are for, and weak scaling on paper.

    python benchmarks/plan_table.py

Each row is one `igpt plan` (minutes of one core, no TPU; pip install 'igpt_jax[tpu]'), written to
benchmarks/results/plan_table.json as soon as it is there; rows that are there are not compiled
again. `--only llamagen-3b,weak-16` picks some, `--again` compiles them anew. At the end the tables
in docs/scaling.md are written from all rows that are there.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from igpt_jax.config import RunConfig, load_config_file
from igpt_jax.planning.plan import plan
from igpt_jax.planning.topology import parse_topology
from igpt_jax.training.sharding import MeshConfig

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "benchmarks/results/plan_table.json"
PAGE = REPOSITORY / "docs/scaling.md"
BEGIN, END = "<!-- benchmarks/plan_table.py writes from here -->", "<!-- to here -->"


@dataclasses.dataclass(frozen=True)
class Row:
    """One plan: a config and what is changed of it.

    Attributes:
        config: name of the file in configs/.
        topology: the slice.
        batch: global batch; 0 for the config's own.
        fsdp: devices that share the parameters; 0 for the config's own.
        tensor: devices that share a product; 0 for the config's own.
        remat: of the GPT; "" for the config's own.
        sampler_batch: pictures drawn at once; 0 leaves the sampler out.
    """

    config: str
    topology: str
    batch: int = 0
    fsdp: int = 0
    tensor: int = 0
    remat: str = ""
    sampler_batch: int = 0

    @property
    def stage(self) -> str:
        """What is planned: a tokenizer's training or a GPT's."""
        return "tokenizer" if self.config == "vqgan256" else "gpt"

    @property
    def command(self) -> str:
        """The same plan by `igpt plan`."""
        words = [f"igpt plan configs/{self.config}.py --topology {self.topology}"]
        words += [f"--mesh.fsdp {self.fsdp}"] if self.fsdp else []
        words += [f"--mesh.tensor {self.tensor}"] if self.tensor else []
        if self.batch:
            words.append(f"--{self.stage}_training.global_batch_size {self.batch}")
        words += [f"--gpt.remat {self.remat}"] if self.remat else []
        if self.stage == "gpt":
            words.append(f"--sampler-batch {self.sampler_batch}")
        return " ".join(words)

    def build(self) -> RunConfig:
        """The config with the changes."""
        config = load_config_file(REPOSITORY / f"configs/{self.config}.py")
        assert isinstance(config, RunConfig)
        name = f"{self.stage}_training"
        if self.batch:
            training = dataclasses.replace(getattr(config, name), global_batch_size=self.batch)
            config = dataclasses.replace(config, **{name: training})
        if self.remat:
            gpt: Any = dataclasses.replace(config.gpt, remat=self.remat)
            config = dataclasses.replace(config, gpt=gpt)
        mesh = MeshConfig(-1, self.fsdp or config.mesh.fsdp, self.tensor or config.mesh.tensor)
        return dataclasses.replace(config, mesh=mesh)


WEAK = {16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
ROWS = {
    "llamagen-3b": Row("imagenet256_llamagen_3b", "v5e:16x16", sampler_batch=256),
    "llamagen-xxl": Row("imagenet256_llamagen_xxl", "v5p:2x4x4", sampler_batch=64),
    "igpt-l-32": Row("imagenet32_igpt_l", "v6e:4x4", sampler_batch=64),
    "vq-16": Row("vqgan256", "v5e:4x4"),
    # 16 pictures a chip, parameters over 16 chips, copies of these over the rest.
    **{
        f"weak-{chips}": Row(
            "imagenet256_llamagen_3b", f"v5p:{shape}", batch=16 * chips, fsdp=16, tensor=1
        )
        for chips, shape in WEAK.items()
    },
    "llamagen-b": Row("imagenet256_llamagen_b", "v5e:4x4", sampler_batch=64),
    "llamagen-l": Row("imagenet256_llamagen_l", "v5e:4x8", sampler_batch=64),
    "llamagen-xl": Row("imagenet256_llamagen_xl", "v5e:8x8", sampler_batch=64),
    "igpt-s-32": Row("imagenet32_igpt_s", "v5e:2x2"),
    "igpt-m-32": Row("imagenet32_igpt_m", "v5e:4x4"),
    "igpt-s-64": Row("imagenet64_igpt_s", "v5e:4x4"),
    "igpt-m-64": Row("imagenet64_igpt_m", "v6e:4x4"),
    "igpt-l-64": Row("imagenet64_igpt_l", "v6e:4x8"),
}


def measure(row: Row) -> dict[str, Any]:
    stage: Any = row.stage
    topology = parse_topology(row.topology)
    found = plan(row.build(), topology, stage=stage, sampler_batch=row.sampler_batch)
    return {"command": row.command, **found}


def step_table(results: dict[str, Any]) -> str:
    """Training steps, as Markdown."""
    lines = [
        "| command | mesh (data, fsdp, tensor) | batch | GiB a device | TFLOP a step | ms | "
        "MFU at most | hours of the run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in results.values():
        train = found["train"]
        told = train.get("estimate", {})
        cells = [
            f"`{found['command']}`",
            ", ".join(str(size) for size in found["mesh"].values()),
            train["global_batch_size"],
            memory(train),
            f"{train['teraflops_of_model']:,.0f}",
            *(f"{told[name]:,.3g}" if told else "" for name in ("ms", "mfu", "hours_of_run")),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def memory(part: dict[str, Any]) -> str:
    """What a program needs of what there is."""
    verdict = "" if part["fits"] else ", does not fit"
    return f"{part['gib_needed']:.1f} of {part['gib_of_device']:.1f}{verdict}"


def kind_table(results: dict[str, Any]) -> str:
    """Bytes by kind, as Markdown."""
    lines = [
        "| | parameters | averaged | optimizer | batch | temporaries | total by the compiler |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        kinds, said = found["train"]["gib_by_kind"], found["train"]["gib_by_compiler"]
        sizes = [kinds.get(kind, 0) for kind in ("parameters", "averaged", "optimizer", "batch")]
        sizes += [said.get(kind, 0) for kind in ("temporaries", "total")]
        lines.append(f"| {name} | {' | '.join(f'{size:.3g}' for size in sizes)} |")
    return "\n".join(lines)


def sampler_table(results: dict[str, Any]) -> str:
    """Samplers, as Markdown."""
    lines = [
        "| | pictures at once | GiB a device | tokens a second at most |",
        "|---|---|---|---|",
    ]
    for name, found in results.items():
        if "sampler" in found:
            part = found["sampler"]
            rate = part.get("estimate", {}).get("tokens_per_second", 0)
            lines.append(f"| {name} | {part['batch_size']} | {memory(part)} | {rate:,.0f} |")
    return "\n".join(lines)


def weak_table(results: dict[str, Any]) -> str:
    """Communication of a step while chips and batch grow alike, as Markdown."""
    kinds = ("all-gather", "reduce-scatter", "all-reduce")
    lines = [
        f"| chips | batch | GB sent a chip: {' | '.join(kinds)} | other | network ms | step ms | "
        "images a second | MFU at most | of 16 chips' rate a chip |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    first = None
    for found in results.values():
        train = found["train"]
        told, rate = train.get("estimate", {}), 0.0
        if not told:
            continue
        rate = told["images_per_second"] / found["chips"]
        first = rate if first is None else first
        sent = {one["kind"]: 0.0 for one in train["collectives"]}
        for one in train["collectives"]:
            sent[one["kind"]] += one["gb_sent"]
        other = sum(size for kind, size in sent.items() if kind not in kinds)
        cells = [found["chips"], train["global_batch_size"]]
        cells += [f"{size:.3g}" for size in (*(sent.get(kind, 0.0) for kind in kinds), other)]
        cells += [f"{told[name]:,.3g}" for name in ("network_ms", "ms")]
        cells += [f"{told['images_per_second']:,.0f}", f"{told['mfu']:.3g}", f"{rate / first:.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    """Everything that was found, as Markdown."""
    recipes = {name: found for name, found in results.items() if not name.startswith("weak-")}
    weak = {name: found for name, found in results.items() if name.startswith("weak-")}
    parts = []
    if recipes:
        parts += [step_table(recipes), kind_table(recipes), sampler_table(recipes)]
    if weak:
        commands = "\n".join(found["command"] for found in weak.values())
        parts += [
            "### Weak scaling on paper\n"
            "LlamaGen-3B, 16 pictures a chip, parameters over 16 chips, copies of these over the "
            f"rest:\n```\n{commands}\n```",
            weak_table(weak),
        ]
    return "\n\n".join(parts)


def update_page(text: str) -> None:
    """Writes the tables between their marks in docs/scaling.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, with commas between")
    parser.add_argument("--again", action="store_true", help="compile what is there, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    known = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    results = json.loads(known.out.read_text()) if known.out.is_file() else {}
    for name in known.only.split(","):
        if name in results and not known.again:
            continue
        print(f"{name}: {ROWS[name].command}", flush=True)
        results[name] = measure(ROWS[name])
        known.out.parent.mkdir(parents=True, exist_ok=True)
        known.out.write_text(json.dumps(results, indent=1) + "\n")
    text = tables({name: results[name] for name in ROWS if name in results})
    print(text)
    if known.out == RESULTS:
        update_page(text)


if __name__ == "__main__":
    main()
