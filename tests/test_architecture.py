"""The house rules: who imports whom, how long things may get, and that settings are read and defaults are the paper's."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import veldt
from veldt.envs import make_env_spec
from veldt.envs.options import EnvOptions
from veldt.parts.optimizers import AdaGradConfig, AdamConfig, RMSPropConfig
from veldt.runs.options import RunOptions
from veldt.systems import SYSTEMS
from veldt.systems.a3c import A3CConfig
from veldt.systems.apex import ApexConfig
from veldt.systems.apex_dpg import ApexDPGConfig
from veldt.systems.dqn import DQNConfig
from veldt.systems.gorila import GorilaConfig
from veldt.systems.impala import ImpalaConfig
from veldt.systems.r2d2 import R2D2Config
from veldt.systems.r2d3 import R2D3Config

PACKAGE = Path(veldt.__file__).parent
FILES = {
    ".".join(("veldt", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

# ---- who may import whom -----------------------------------------------------------------------------------------------

ENTRY_POINTS = {
    "__init__",
    "chaos",
    "cli",
    "demonstrate",
    "flags",
    "training",
    "stretch",
    "policy",
    "request",
    "doctor",
    "video",
}
"""What brings systems, runtimes and run folders together. Nothing else may import systems or runtime."""

MAY_IMPORT = {
    "errors": set(),
    "data": {"errors"},
    "math": {"errors"},
    "core": {"data"},
    "settings": {"errors"},
    "program": {"core", "errors"},
    "networks": {"math", "data", "errors"},
    "agents": {"core", "data", "errors", "networks", "math"},
    "replay": {"core", "data", "errors", "math"},
    "parts": {"core", "data", "errors", "math"},
    "envs": {"core", "data", "errors"},
    "demos": {"core", "data", "envs", "errors", "parts.sight", "replay"},
    "systems": {"agents", "core", "data", "demos.table", "errors", "math", "networks", "parts", "program", "replay"},
    "runtime": {"core", "data", "errors", "program"},
    "runs": {"core", "data", "errors", "parts.evaluator"},
}
"""Beside itself, what each module or package of Veldt may import of Veldt. Entry points may import all."""

THIRD_PARTIES = {"data": {"numpy", "torch"}, "math": {"numpy", "torch"}, "core": {"numpy", "torch"}}
"""The only packages beyond the standard library that these may import."""

SANS_IO = {"math", "networks", "agents", "systems"}
MACHINERY = {"time", "os", "threading", "multiprocessing", "subprocess", "ray"}
"""What the packages of `SANS_IO` never import: they cannot know where, when or in how many processes they run."""


def home(module: str) -> str:
    """The part of the house that `module` belongs to: `veldt.replay.table` is in `replay`, `veldt.core` in `core`."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str) -> Iterator[str]:
    """All that `module` imports, at its top or inside functions, as full module names."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; write the full name"
            source = str(node.module)
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in FILES else source


def own_imports(module: str) -> Iterator[str]:
    return (name for name in imports(module) if name.partition(".")[0] == "veldt")


def allowed(name: str, permitted: set[str]) -> bool:
    inside = name.removeprefix("veldt.")
    return any(inside == entry or inside.startswith(f"{entry}.") for entry in permitted)


def test_every_module_belongs_to_a_part_of_the_house():
    assert {home(module) for module in FILES} <= MAY_IMPORT.keys() | ENTRY_POINTS


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_keep_the_law(part):
    permitted = MAY_IMPORT[part] | {part}
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        if home(module) == part
        for name in own_imports(module)
        if not allowed(name, permitted)
    ]
    assert not wrong


def test_only_entry_points_import_systems_and_runtimes():
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        if home(module) not in ENTRY_POINTS
        for name in own_imports(module)
        if home(name) in ("systems", "runtime") and home(name) != home(module)
    ]
    assert not wrong


def test_nobody_imports_an_entry_point_but_entry_points():
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        if home(module) not in ENTRY_POINTS
        for name in own_imports(module)
        if home(name) in ENTRY_POINTS
    ]
    assert not wrong


@pytest.mark.parametrize("part", sorted(THIRD_PARTIES))
def test_data_core_and_math_know_numpy_and_torch_only(part):
    from sys import stdlib_module_names

    known = stdlib_module_names | THIRD_PARTIES[part] | {"veldt"}
    found = {name.partition(".")[0] for module in FILES if home(module) == part for name in imports(module)}
    assert found <= known


@pytest.mark.parametrize("part", sorted(SANS_IO))
def test_no_machinery_in_mathematics_networks_agents_and_systems(part):
    found = {(module, name) for module in FILES if home(module) == part for name in imports(module)}
    assert not {(module, name) for module, name in found if name.partition(".")[0] in MACHINERY}


# ---- budgets -----------------------------------------------------------------------------------------------------------

FILE_LINES = 400
FUNCTION_LINES = 60
SYSTEM_LINES = 150
CONFIG_FIELDS = 25
PROTOCOL_METHODS = 6
LONG_FUNCTIONS_SHARE = 0.02
PACKAGE_LEVELS = 2

LONG_FUNCTIONS: dict[str, str] = {}
"""module.function -> why it is better in one piece."""

LARGE_PROTOCOLS = {
    "veldt.replay.selectors.RunningSelector": "a selector is told of every insert, removal and update, and is saved",
    "veldt.runtime.transport.Transport": "one for each kind of thing that stands between two processes",
}
"""Protocols with more methods than the budget, and why."""


def functions(module: str) -> Iterator[tuple[str, int]]:
    """The functions and methods of `module`, and how many lines each has, docstring and all."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1


def lines(module: str) -> int:
    return len(FILES[module].read_text().splitlines())


@pytest.mark.parametrize("module", FILES)
def test_a_module_says_what_it_is_for_and_is_short_enough_to_read_in_one_go(module):
    assert ast.get_docstring(TREES[module]), "every module opens with a docstring"
    assert lines(module) <= FILE_LINES


def test_functions_fit_a_screen():
    found = [function for module in FILES for function in functions(module)]
    too_long = {name for name, length in found if length > FUNCTION_LINES}
    assert too_long == set(LONG_FUNCTIONS)
    assert len(LONG_FUNCTIONS) <= LONG_FUNCTIONS_SHARE * len(found)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_system_is_a_page(system):
    assert lines(f"veldt.systems.{system.replace('-', '_')}") <= SYSTEM_LINES


@pytest.mark.parametrize("config", [*(system.config for system in SYSTEMS.values()), RunOptions, EnvOptions])
def test_a_config_has_few_fields_each_with_a_description(config):
    from veldt.settings import descriptions

    own = set(vars(config).get("__annotations__", {}))
    assert len(own) <= CONFIG_FIELDS
    assert {field.name for field in dataclasses.fields(config)} <= descriptions(config).keys()


def test_protocols_are_small():
    large = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                if len(methods) > PROTOCOL_METHODS:
                    large.add(f"{module}.{node.name}")
    assert large == set(LARGE_PROTOCOLS)


def test_packages_are_two_levels_deep_at_most():
    assert max(len(path.relative_to(PACKAGE).parts) for path in FILES.values()) <= PACKAGE_LEVELS


# ---- surface and settings ----------------------------------------------------------------------------------------------


def test_the_public_names_are_exactly_these():
    assert sorted(veldt.__all__) == [
        "A3CConfig",
        "ApexConfig",
        "ApexDPGConfig",
        "DQNConfig",
        "EnvOptions",
        "EvaluationResult",
        "GorilaConfig",
        "ImpalaConfig",
        "Policy",
        "R2D2Config",
        "R2D3Config",
        "Result",
        "RunOptions",
        "UserError",
        "VeldtError",
        "check_env",
        "evaluate",
        "load",
        "resume",
        "train",
    ]
    imported = {alias.asname or alias.name for node in TREES["veldt"].body if isinstance(node, ast.ImportFrom)
                for alias in node.names}  # fmt: skip
    assert imported - {"annotations"} == set(veldt.__all__)


def attributes_read(tree: ast.AST) -> Iterator[str]:
    """Names read as attributes, or by name as `getattr(self, name)` over a tuple of names does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr


def properties_that_read(cls: ast.ClassDef) -> Iterator[tuple[str, set[str]]]:
    for item in cls.body:
        if isinstance(item, ast.FunctionDef) and item.name != "__post_init__":
            yield item.name, set(attributes_read(item))


@pytest.mark.parametrize("config", [*(system.config for system in SYSTEMS.values()), RunOptions, EnvOptions])
def test_every_setting_is_read_by_somebody(config):
    """Outside its classes, or by a property of them that is itself read outside. Checking a value is not reading it."""
    used: set[str] = set()
    own: list[ast.ClassDef] = []
    homes = {(cls.__module__, cls.__name__) for cls in config.__mro__[:-1]}
    for module, tree in TREES.items():
        mine = [node for node in tree.body if isinstance(node, ast.ClassDef) and (module, node.name) in homes]
        used |= {name for node in tree.body if node not in mine for name in attributes_read(node)}
        own += mine
    assert len(own) == len(homes)
    for cls in own:
        for name, reads in properties_that_read(cls):
            if name in used:
                used |= reads
    assert {field.name for field in dataclasses.fields(config)} - used == set()


PAPER_DQN = {
    # Mnih et al. 2015, extended data table 1, and the code released with it
    "batch_size": 32,
    "replay_steps": 1_000_000,
    "start_steps": 50_000,
    "discount": 0.99,
    "steps_per_update": 4,
    "learning_rate": 0.00025,
    "learning_rate_updates": None,
    "optimizer": "rmsprop",
    "optimizer_epsilon": 0.01,
    "target_period_updates": 10_000 // 4,  # the released code counts 10,000 agent steps, 4 of them an update
    "epsilon_end": 0.1,
    "epsilon_steps": 1_000_000,
    "reward_clip": 1.0,
    "sum_over_batch": True,
    "max_gradient_norm": None,
    "hidden": (512,),
    "n_steps": 1,
    "double": False,
    "dueling": False,
    "prioritized": False,
    "environments": 1,
    # Schaul et al. 2016, for prioritized=True: alpha 0.6, beta from 0.4 to 1 over the 50 million steps of a run
    "priority_exponent": 0.6,
    "importance_exponent": 0.4,
    "importance_anneal_updates": 50_000_000 // 4,
    # from the observations: the paper's network for images
    "encoder": "auto",
}


def test_the_defaults_of_dqn_are_the_papers():
    assert dataclasses.asdict(DQNConfig()) == PAPER_DQN


PAPER_GORILA = PAPER_DQN | {
    # Nair et al. 2015; what is not here is DQN's
    "replay": "local",
    "replay_steps": 1_000_000,
    "steps_per_update": 1,  # algorithm 1 learns at every step
    "optimizer": "adagrad",
    "target_period_updates": 60_000,
    "epsilon_end": 0.1,
    "epsilon_steps": 1_000_000,
    # the paper says that there are such, and not how many
    "max_staleness_updates": 100,
    "outlier_deviations": 4.0,
    "outlier_warm_up_losses": 100,
    "learning_rate": 0.01,
    "optimizer_epsilon": 1e-10,
    "pull_period_steps": None,
    # departures, listed in docs/gorila.md
    "bundles": 4,
    "shards": 2,
    "actors": None,
    "learners": None,
}


def test_the_defaults_of_gorila_are_the_papers():
    assert dataclasses.asdict(GorilaConfig()) == PAPER_GORILA


PAPER_APEX = {
    # Horgan et al. 2018, section 4.1 and appendix C
    "batch_size": 512,
    "replay_steps": 2_000_000,
    "start_steps": 50_000,
    "discount": 0.99,
    "n_steps": 3,
    "double": True,
    "dueling": True,
    "hidden": (512,),
    "error_loss": "squared",
    "optimizer": "rmsprop",
    "optimizer_epsilon": 1.5e-7,
    "learning_rate": 0.00025 / 4,
    "learning_rate_updates": None,
    "max_gradient_norm": 40.0,
    "target_period_updates": 2_500,
    "epsilon_base": 0.4,
    "epsilon_power": 7.0,
    "priority_exponent": 0.6,
    "importance_exponent": 0.4,
    "reward_clip": 1.0,
    "unroll_steps": 50,
    "pull_period_steps": 400 // 4,  # the paper counts frames, 4 of them a step
    "max_lag_updates": None,
    "environments": 1,
    "encoder": "auto",
    # departures, listed in docs/apex.md
    "actors": 4,
    "samples_per_insert": 0.78,
    "error_buffer": None,
}

PAPER_APEX_DPG = {
    # section 4.2 and appendix D; where they are silent, as the DQN variant
    "batch_size": 256,
    "replay_steps": 1_000_000,
    "n_steps": 5,
    "policy_hidden": (300, 200),
    "critic_hidden": (400, 300),
    "noise": 0.3,
    "action_gradient_clip": 1.0,
    "learning_rate": 1e-4,
    "max_gradient_norm": None,
    "target_period_updates": 100,
    "reward_clip": None,
}
ONLY_APEX = ("double", "dueling", "hidden", "error_loss", "optimizer", "optimizer_epsilon", "epsilon_base", "epsilon_power")


PAPER_IMPALA = {
    # Espeholt et al. 2018, the hyperparameters for Atari; a run is 200 million frames
    "unroll_steps": 20,
    "batch_size": 32,
    "discount": 0.99,
    "value_factor": 0.5,
    "entropy_factor": 0.01,
    "learning_rate": 0.0006,
    "learning_rate_updates": 200_000_000 // 4 // (20 * 32),
    "optimizer": "rmsprop",
    "optimizer_epsilon": 0.01,
    "max_gradient_norm": 40.0,
    "reward_clip": 1.0,
    "hidden": (256,),
    "lstm_units": 0,
    "last_inputs": False,
    "separate_networks": False,
    # section 4.1: all thresholds 1
    "rho_bar": 1.0,
    "c_bar": 1.0,
    "pg_rho_bar": 1.0,
    "trace_lambda": 1.0,
    "correction": "vtrace",
    # section 5.2.2: the variant with replay has 10,000 unrolls, half of each batch
    "replay_share": 0.0,
    "replay_unrolls": 10_000,
    # figure 1, left: one learner
    "learners": 1,
    # docs/impala.md has the reasons for these
    "encoder": "auto",
    "actors": 4,
    "environments": 1,
    "queue_unrolls": None,
    "max_lag_updates": None,
    "forced_lag_updates": 0,
}


def test_the_defaults_of_impala_are_the_papers():
    assert dataclasses.asdict(ImpalaConfig()) == PAPER_IMPALA


PAPER_A3C = {name: PAPER_IMPALA[name] for name in ("discount", "value_factor", "entropy_factor", "max_gradient_norm")} | {
    # Mnih et al. 2016, sections 5.1 and 8; a run of one day is 320 million frames
    "method": "a3c",
    "workers": 16,
    "unroll_steps": 5,
    "learning_rate": 7e-4,
    "learning_rate_updates": 320_000_000 // 4 // 5,
    "optimizer_epsilon": 0.1,
    "reward_clip": 1.0,
    "hidden": (256,),
    "lstm_units": 0,
    "last_inputs": False,
    "separate_networks": False,
    "target_period_updates": 40_000 // 4 // 5,
    "epsilon_steps": 4_000_000 // 4,
    # docs/a3c.md has the reasons for these
    "encoder": "auto",
    "environments": 1,
    "shards": 0,
}


def test_the_defaults_of_a3c_are_the_papers():
    assert dataclasses.asdict(A3CConfig()) == PAPER_A3C


def test_the_defaults_of_apex_are_the_papers():
    assert dataclasses.asdict(ApexConfig()) == PAPER_APEX


def test_the_defaults_of_apex_dpg_are_the_papers():
    shared = {name: value for name, value in PAPER_APEX.items() if name not in ONLY_APEX}
    assert dataclasses.asdict(ApexDPGConfig()) == shared | PAPER_APEX_DPG


PAPER_R2D2 = {
    # Kapturowski et al. 2019, section 2.3, table 2 and appendix; where they are silent, as Ape-X
    "sequence_steps": 80,
    "overlap_steps": 40,
    "burn_in_steps": 40,
    "initial_state": "stored",
    "lstm_units": 512,
    "head_units": 512,
    "hidden": (512,),
    "n_steps": 5,
    "discount": 0.997,
    "reward_clip": None,
    "rescaling_epsilon": 1e-3,
    "priority_eta": 0.9,
    "priority_exponent": 0.9,
    "importance_exponent": 0.6,
    "replay_steps": 4_000_000,
    "batch_size": 64,
    "learning_rate": 1e-4,
    "optimizer_epsilon": 1e-3,
    "target_period_updates": 2_500,
    "max_gradient_norm": 40.0,
    "epsilon_base": 0.4,
    "epsilon_power": 7.0,
    # 320 sequences a second learned from for 16,640 steps acted, of which 40 make a new sequence
    "samples_per_insert": 0.77,
    # reported in section 3
    "delta_q": True,
}


def test_the_defaults_of_r2d2_are_the_papers():
    shared = {name: value for name, value in PAPER_APEX.items() if name not in ONLY_APEX}
    assert dataclasses.asdict(R2D2Config()) == shared | PAPER_R2D2


PAPER_R2D3 = {
    # Paine et al. 2019; where it is silent, as R2D2
    "demo_ratio": 1 / 256,
    "sequence_steps": 40,  # of 80 steps, neighbours sharing 40, the first 40 warm up
    "overlap_steps": 0,
    "burn_in_steps": 40,
    "initial_state": "zero",
    "demos": None,
}


def test_the_defaults_of_r2d3_are_the_papers():
    assert dataclasses.asdict(R2D3Config()) == dataclasses.asdict(R2D2Config()) | PAPER_R2D3


def test_the_default_run_and_environment_are_the_papers():
    run, env = RunOptions(), EnvOptions()
    assert (run.steps, env.max_no_ops, env.episode_cap_frames, env.sticky_actions) == (50_000_000, 30, 108_000, 0.0)


CENTERED = {"decay": 0.95, "epsilon_inside_root": True, "initial_square": 0.0, "centered": True}


@pytest.mark.parametrize(
    ("system", "env", "optimizer"),
    [
        ("dqn", "CartPole-v1", RMSPropConfig(0.00025, epsilon=0.01, **CENTERED)),
        ("gorila", "CartPole-v1", AdaGradConfig(0.01, epsilon=1e-10)),
        ("apex", "CartPole-v1", RMSPropConfig(0.00025 / 4, epsilon=1.5e-7, **CENTERED)),
        (
            "impala",
            "CartPole-v1",
            RMSPropConfig(0.0006, 0.99, 0.01, epsilon_inside_root=True, initial_square=1.0, centered=False),
        ),
        ("a3c", "CartPole-v1", RMSPropConfig(7e-4, 0.99, 0.1, epsilon_inside_root=True, initial_square=0.0, centered=False)),
        ("apex-dpg", "Pendulum-v1", AdamConfig(1e-4, beta1=0.9, beta2=0.999, epsilon=1e-8)),
        ("r2d2", "CartPole-v1", AdamConfig(1e-4, beta1=0.9, beta2=0.999, epsilon=1e-3)),
    ],
)
def test_the_optimizer_is_the_papers(system, env, optimizer):
    program = SYSTEMS[system].program(SYSTEMS[system].config(), make_env_spec(env))
    parameters = next(node for node in program.nodes if node.name == "parameters")
    assert parameters.make.args[1] == optimizer


def test_no_path_of_a_machine_is_in_the_package():
    # assembled, so that this line does not find itself elsewhere
    pattern = re.compile("|".join(("/" + "work/", "/" + "home/", "/" + "root/", "/" + "Users/")))
    assert not [module for module, path in FILES.items() if pattern.search(path.read_text())]
