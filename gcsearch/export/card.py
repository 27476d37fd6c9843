"""The model card of an export: what the model is, how good, for what, and where its limits are."""

from __future__ import annotations

from gcsearch.analysis.results import StudyResults
from gcsearch.config import Experiment
from gcsearch.data.image_set import ImageSet
from gcsearch.export.wording import meaning_text, score_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.identity import ScoreIdentity


def model_card(
    results: StudyResults, record: TrialRecord, experiment: Experiment, num_parameters: int, *, diffusers: bool = False
) -> str:
    """Text of ``MODEL_CARD.md``.

    Args:
        results: The study.
        record: The trial whose weights are exported.
        experiment: Its recipe.
        num_parameters: Of its network.
        diffusers: Whether the export holds a folder for diffusers.
    """
    is_image = len(experiment.data.event_shape) == 3
    task = "pipeline_tag: unconditional-image-generation" if is_image else "tags: [points]"
    picture = "\n![Samples](samples.png)\n" if is_image else ""
    drawn, kind = ("a grid", "images of this size") if is_image else ("a table", "points of this dimension")
    shape = " x ".join(str(size) for size in experiment.data.event_shape)
    return f"""---
library_name: gcsearch
{task}
license: other
license_name: to-be-chosen
datasets: [{experiment.data.name}]
---
# {results.name}, trial {record.trial}

Consistency model for `{experiment.data.name}` ({shape}), trained with the coupling `{experiment.coupling.name}`:
network `{experiment.network.name}` with {num_parameters:,} parameters, process `{experiment.process.name}`.
{picture}
## Score

{_score(results, record)}

## Recipe

What the study varied, and what this trial used:

| parameter | value |
| --- | --- |
{_varied(record)}

The complete recipe is `best.yaml`; `gcsearch train best.yaml` trains it again, to the same score on the same machine.
`provenance.json` says where the numbers come from: versions, state of the code, machine, seeds, command.

## Data

{_data(results, record, experiment)}

## Use

- `gcsearch sample . --num 64` draws {drawn}; `--steps 2` spends two network evaluations on each
  sample. In Python: `gcsearch.load(".").sample(64, steps=2, seed=0)`.{_modules(experiment)}
- `gcsearch evaluate . --metrics fid,kid` scores it again, with intervals over the draws.
- Weights: `model.safetensors`, averaged over training (EMA). `config.json` holds the configuration for other
  programs.{_pipeline(diffusers)}

Intended for research on training recipes of consistency models.

## Limits

- The samples follow the training data and nothing else: their gaps and biases are the model's. There are no labels, no
  prompt and no filter, and nobody has checked the samples for memorised training examples.
- Only {kind} can be drawn.
- One number summarises many samples. Look at them before relying on it.

## Licence

Not chosen yet: replace `license` and `license_name` at the top of this file. {_data_terms(experiment)}

## Sources

- T. Issenhuth et al., Improving Consistency Models with Generator-Augmented Flows (arXiv:2406.09570).
- Y. Song, P. Dhariwal, Improved Techniques for Training Consistency Models (arXiv:2310.14189).
- Y. Song et al., Consistency Models (arXiv:2303.01469).
"""


def _score(results: StudyResults, record: TrialRecord) -> str:
    last = record.results[-1]
    seconds = last.metrics.get("cost/train_seconds", 0.0)
    lines = [f"{score_text(results, record)}, at {record.images:,} images seen, in {seconds:.0f} s of training.\n"]
    identity = last.identities.get(results.metric)
    if identity is None:
        return f"{lines[0]}\n- The trial has no value of the objective."
    lines.append(f"- What the number is: `{identity}`")
    lines.append(f"- {meaning_text(results, record)}")
    lines.append("- It may be compared only with scores of the same identity.")
    if results.extractor() != "inception":
        lines[-1] += (
            f" On `{results.extractor()}` features it is **not** the FID on\n  Inception features that papers report."
        )
    return "\n".join(lines)


def _varied(record: TrialRecord) -> str:
    return "\n".join(f"| `{key}` | {value} |" for key, value in record.params.items()) or "| (nothing) | |"


def _data(results: StudyResults, record: TrialRecord, experiment: Experiment) -> str:
    identity = record.results[-1].identities.get(results.metric)
    known = (
        ""
        if identity is None
        else f", content `{ScoreIdentity.parse(identity).reference}` (name, start of the sha256, number of examples)"
    )
    return f"`{experiment.data.name}`{known}. No other data took part."


def _modules(experiment: Experiment) -> str:
    if not experiment.imports:
        return ""
    names = ", ".join(f"`{name}`" for name in experiment.imports)
    return f"\n- The recipe has components of its own: put {names} beside `best.yaml`, or install them."


def _pipeline(diffusers: bool) -> str:
    if not diffusers:
        return ""
    return (
        '\n- With diffusers: `ConsistencyModelPipeline.from_pretrained("diffusers")` draws the same images from the\n'
        "  same latents."
    )


def _data_terms(experiment: Experiment) -> str:
    data = experiment.data
    terms = f": {data.licence}" if isinstance(data, ImageSet) else ""
    return f"The data's own terms apply too (`{data.name}`{terms})."
