"""The classes of a task or data set: names, colours, and where the labels come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stagekit.data.palette import IGNORE, Palette, check_palette
from stagekit.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Classes:
    """What ``classes.json`` says.

    Args:
        names: one a class, in the order of the labels.
        palette: one colour a class.
        ignore: the label that marks pixels of no class in the files; readers always see it as 255.
        source: where images and labels come from.
        license: under which terms.
    """

    names: tuple[str, ...]
    palette: Palette
    ignore: int = IGNORE
    source: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        check_palette(self.palette)
        if len(self.names) != len(self.palette) or len(set(self.names)) != len(self.names) or "" in self.names:
            raise DatasetError(
                f"expected {len(self.palette)} different class names, found {list(self.names)}",
                remedy="name every class once",
            )
        if not len(self.names) <= self.ignore <= 255:
            raise DatasetError(
                f"the ignore label is {self.ignore}, which is a class or no byte",
                remedy=f"choose one from {len(self.names)} to 255",
            )

    @classmethod
    def read(cls, path: Path) -> Classes:
        """Read ``classes.json``.

        Raises:
            DatasetError: when it is missing, no JSON, or not as described above.
        """
        shape = 'write {"classes": [{"name": "water", "color": [0, 114, 178]}, ...], "ignore": 255}'
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            entries = stated["classes"]
            names = tuple(str(entry["name"]) for entry in entries)
            palette = check_palette([entry["color"] for entry in entries])
            ignore, source, terms = stated.get("ignore", IGNORE), stated.get("source", ""), stated.get("license", "")
            return cls(names, palette, int(ignore), str(source), str(terms))
        except FileNotFoundError:
            raise DatasetError("expected the list of classes, found no such file", where=path, remedy=shape) from None
        except DatasetError as error:
            raise DatasetError(error.what, where=path, remedy=error.remedy) from error
        except KeyError as error:
            raise DatasetError(f"the key {error} is missing", where=path, remedy=shape) from error
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DatasetError(f"expected the list of classes ({error})", where=path, remedy=shape) from error

    def write(self, path: Path) -> None:
        """Write ``classes.json``."""
        entries = [{"name": n, "color": list(c)} for n, c in zip(self.names, self.palette, strict=True)]
        stated = {"classes": entries, "ignore": self.ignore, "source": self.source, "license": self.license}
        path.write_text(json.dumps(stated, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
