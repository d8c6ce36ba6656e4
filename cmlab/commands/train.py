"""'cmlab train': train a preset, a chain of them, or a classifier."""

from collections.abc import Callable
from dataclasses import replace

from ..base.presets import CHAINS, presets_by_data
from ..base.registry import CLASSIFIER_PRESETS
from ..base.suggest import unknown
from .options import TrainCommand, parse

_USAGE = """usage: cmlab train PRESET [--out DIR] [--name NAME] [--resume] [--network NAME] [--FIELD VALUE ...]
       cmlab train --config FILE [--FIELD VALUE ...]

PRESET, with what 'cmlab train PRESET --help' explains and lets you change, is one of:"""


def train(words: list[str]) -> None:
    """Run 'cmlab train': the first of ``words`` is the preset, on which it depends what the others may be."""
    if not words or words[0] in ("-h", "--help"):
        chains, classifiers = other_runs()
        print(_USAGE, *preset_lines(), "", sep="\n")
        print(f"or a chain, from the teacher to the cards of its students: {'  '.join(chains)}")
        print(f"or a classifier, for 'cmlab evaluate --features': {'  '.join(classifiers)}")
        if not words:
            raise ValueError("name a preset to train")
        return
    name, *rest = _with_file(words)
    if name.startswith("-"):
        raise ValueError(f"the preset comes first: cmlab train PRESET {name} ...")
    if name.endswith("-chain"):
        from . import chain

        return chain.run(name, rest)

    from ..base.device import choose_device
    from ..training import presets, session

    if name.endswith("-classifier"):
        from ..evaluation import classifier_training
        from ..training.options import ClassifierOptions

        both = TrainCommand(ClassifierOptions(), CLASSIFIER_PRESETS.record(name).value)
        command = continued(name, both, rest, lambda given: parse(TrainCommand, given, f"cmlab train {name}", both))
        classifier_training.run(name, command.preset, command.run, choose_device(command.run.device), words)
    else:
        if name in presets.PRESETS and any(word in ("-h", "--help") for word in rest):
            from ..training.cost import cost

            about = [f"{name}: {presets.ABOUT[name]}"] if name in presets.ABOUT else []
            print(*about, cost(presets.PRESETS[name]), "", sep="\n")
        given = TrainCommand(None, presets.PRESETS.get(name))
        command = continued(name, given, rest, lambda words: preset_command(name, words))
        session.train(name, command.preset, command.run, choose_device(command.run.device), words)


def _taken(words: list[str], option: str) -> tuple[list[str], list[str]]:
    """What ``option`` is given in ``words``, each time, and the other words."""
    left, values, rest = iter(words), [], []
    for word in left:
        name, given, value = word.partition("=")
        if name == option:
            values.append(value if given else next(left, ""))
        else:
            rest.append(word)
    return values, rest


def _with_file(words: list[str]) -> list[str]:
    """``words`` with those of the file that --config names in front of the other options."""
    files, rest = _taken(words, "--config")
    if not files:
        return words
    from ..training.settings import read_config

    if len(files) > 1:
        raise ValueError("--config names one file: put the options of both into one")
    if not (file := files[0]):
        raise ValueError("--config needs the name of a file, such as runs/NAME/config.toml")
    preset, of_file = read_config(file)
    if rest and not rest[0].startswith("-"):
        named = rest.pop(0)
        if preset not in ("", named):
            raise ValueError(f"{file} is of the preset {preset}, not of {named}: leave one of them out")
        preset = named
    if not preset:
        raise ValueError(f'{file} names no preset: add a line such as preset = "digits-edm"')
    return [preset, *of_file, *rest]


def continued(name: str, default: TrainCommand, words: list[str], read: Callable[[list[str]], TrainCommand]) -> TrainCommand:
    """What ``read`` makes of ``words``. A run that is resumed keeps the options that it was saved with, unless they say others."""
    from ..training.settings import as_words, said
    from ..training.states import flatten, saved_options

    command = read(words)
    if not command.run.resume:
        return command
    made_by, preset, how = saved_options(command.run.out, command.run.name or name)
    if made_by != name:
        return command
    if _taken(words, "--network")[0] and type(command.preset.network).__name__ != preset.get("network"):
        # It is refused later; the options of one network mean nothing to another.
        preset = {k: v for k, v in preset.items() if k.partition(".")[0] != "network"}
    return read([*as_words(how | said(preset, flatten(default.preset))), *words])


def preset_command(name: str, words: list[str]) -> TrainCommand:
    """The preset ``name`` and how it is run, as ``words`` change them.

    --network NAME comes first, wherever it stands: it replaces the preset's network by that one's default configuration, which
    --network.FIELD then changes. Raises ValueError for unknown names.
    """
    from ..base.registry import NETWORKS
    from ..training.options import TrainOptions
    from ..training.presets import PRESETS

    if name not in PRESETS:
        chains, classifiers = other_runs()
        raise ValueError(unknown("preset", name, [*PRESETS, *chains, *classifiers]))
    preset, (networks, rest) = PRESETS[name], _taken(words, "--network")
    for network in networks:
        preset = replace(preset, network=NETWORKS.record(network).facts["config"]())
    return parse(TrainCommand, rest, f"cmlab train {name}", TrainCommand(TrainOptions(), preset))


def other_runs() -> tuple[list[str], list[str]]:
    """Names of the chains and of the classifiers that 'cmlab train' knows beside the presets."""
    return list(CHAINS), list(CLASSIFIER_PRESETS.texts())


def preset_lines() -> list[str]:
    """The presets' names, a line for each data set."""
    return ["  " + "  ".join(names) for names in presets_by_data().values()]
