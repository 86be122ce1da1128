"""Imports point down, optional packages stay in their rooms, and files stay small enough to hold in the head."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sb3_gipo"
FILES = sorted(PACKAGE.rglob("*.py"))

# Layer of each room. A room imports rooms of lower layers and itself.
LAYERS = {
    "ops": 0,
    "defaults": 1,
    "look": 1,
    "settings": 1,
    "pages": 1,
    "rollouts": 1,
    "envs": 1,
    "policies": 2,
    "learner": 3,
    "arguments": 4,
    "replay_algorithm": 4,
    "gipo": 5,
    "callbacks": 6,
    "distributed": 6,
    "zoo": 7,
    "studies": 8,
    "diagnosis": 8,
    "cli": 9,
    "__main__": 10,
}
# Slow to import and of no use to training: only where something is drawn or read, or inside a function.
SLOW = ("matplotlib", "pandas", "jinja2")
# Optional packages and the rooms that may import them.
ROOMS_OF = {"ray": {"distributed"}, "rl_zoo3": {"zoo"}, "optuna": {"zoo"}, "metaworld": {"envs"}, "rliable": {"studies"}}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """No room imports one of a higher layer, nor a sibling of its own."""
    room = room_of(path)
    if room == "__init__":
        return
    for name in imports_of(path):
        if not name.startswith("sb3_gipo."):
            continue
        target = name.split(".")[1]
        if target in LAYERS and target != room:
            assert LAYERS[target] < LAYERS[room], f"{room} (layer {LAYERS[room]}) imports {target} (layer {LAYERS[target]})"


def test_three_files_know_of_ray() -> None:
    """Actors and learner are plain classes; another engine would be other files beside these."""
    knowing = {path.name for path in FILES if any(name.split(".")[0] == "ray" for name in imports_of(path))}
    assert knowing == {"ray_backend.py", "ray_cluster.py", "ray_processes.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_packages_stay_in_their_rooms(path: Path) -> None:
    """Ray, RL Zoo, Optuna, Meta-World and rliable are imported nowhere but in their rooms; ``ops`` knows only torch."""
    tops = {name.split(".")[0] for name in imports_of(path)}
    for package, rooms in ROOMS_OF.items():
        assert package not in tops or room_of(path) in rooms, f"{path} imports {package}"
    if room_of(path) == "ops":
        assert tops <= {"torch", "sb3_gipo", "collections", "typing", "math", "__future__"}


def test_imports_with_every_optional_package_missing() -> None:
    """``import sb3_gipo`` works without Ray, RL Zoo, Optuna, Meta-World, rliable and sb3-contrib."""
    hidden = [*ROOMS_OF, "sb3_contrib", "imageio", "mujoco"]
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); import sb3_gipo, sb3_gipo.envs; print(sb3_gipo.GIPO)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_not_slowed_by_what_only_draws() -> None:
    """``import sb3_gipo`` loads none of the packages that draw pictures or read logs."""
    code = f"import sys, sb3_gipo; print([name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    """About 300 code lines a file, about 40 a function; constructors with SB3's signature are exempt."""
    source = path.read_text()
    tree = ast.parse(source)
    documentation: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = {
        number
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in documentation
    }
    assert len(code) <= 320, f"{path} has {len(code)} code lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            length = len(code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            assert length <= 45, f"{path}: {node.name} has {length} code lines"
