"""The table of signatures against the header and the library."""

import ctypes
import re
import unittest
from pathlib import Path

from holstein import _abi
from holstein._library import constant, lib

HEADER = (Path(__file__).resolve().parents[2] / "include" / "holstein.h").read_text()
CONSTANTS = {name: int(value) for name, value in re.findall(r"^#define HOL_(\w+) (-?\d+)$", HEADER, re.MULTILINE)}


def mirrored() -> dict:
    """The constants as the package has them, under the header's names."""
    constants = {"OK": _abi.OK, "STOPPED": _abi.STOPPED, "TIMED_OUT": _abi.TIMED_OUT}
    for code, kind in _abi.ERRORS.items():
        constants["ERR_" + kind.upper().replace("-", "_")] = code
    for group, choices in _abi.CHOICES.items():
        for value, choice in enumerate(choices):
            constants[f"{group}_{re.sub('[-.]', '_', choice.upper())}"] = value
    for group, names in (
        ("JOB", _abi.STATUSES),
        ("EVENT", _abi.EVENTS),
        ("SIDE", _abi.SIDES),
        ("ACTION", _abi.ACTIONS),
        ("LOG", _abi.LEVELS),
        ("SEVERITY", _abi.SEVERITIES),
        ("LINK", _abi.LINKS),
        ("VERDICT", {0: "none", **_abi.VERDICTS}),
    ):
        constants.update({f"{group}_{name.upper()}": value for value, name in names.items()})
    constants.update({f"CHANGE_{name.upper()}": value for value, name in enumerate(_abi.CHANGES, 1)})
    constants.update({f"REPAIR_{name.upper()}": value for value, name in enumerate(_abi.REPAIRS, 1)})
    for group, names in (("RECOVERED", _abi.RECOVERED), ("PROBLEM", _abi.PROBLEMS)):
        for value, name in enumerate(names, 1):
            constants[f"{group}_{name.upper().replace('-', '_')}"] = value
    for group, flags in (
        ("EXTENT", _abi.EXTENT_FLAGS),
        ("BITMAP", _abi.BITMAP_FLAGS),
        ("SNAPSHOT", _abi.SNAPSHOT_FLAGS),
        ("DISK", _abi.DISK_FLAGS),
    ):
        constants.update({f"{group}_{name}": value for name, value in flags.items()})
        constants[f"{group}_FLAGS_MASK"] = sum(flags.values())
    constants["CREATE_FLAGS_MASK"] = sum(
        _abi.DISK_FLAGS[name] for name in ("LAZY_REFCOUNTS", "EXTENDED_L2", "DATA_FILE_RAW")
    )
    return constants


class Abi(unittest.TestCase):
    def test_constants_are_those_of_the_header(self) -> None:
        declared = {name: value for name, value in CONSTANTS.items() if not name.startswith(("VERSION_", "HAVE_"))}
        self.assertEqual(mirrored(), declared)
        self.assertGreater(len(declared), 60)

    def test_the_library_knows_every_constant_of_the_header_and_no_other(self) -> None:
        for name, value in CONSTANTS.items():
            if not name.startswith(("VERSION_", "HAVE_")):
                self.assertEqual(constant(f"HOL_{name}"), value, name)
        with self.assertRaises(ValueError):
            constant("HOL_NOTHING")

    def test_every_function_has_its_macro(self) -> None:
        have = {f"hol_{name[5:].lower()}" for name in CONSTANTS if name.startswith("HAVE_")}
        self.assertEqual(have, set(_abi.SIGNATURES))

    def test_names_are_the_librarys(self) -> None:
        for ask, names in (
            (lib.hol_error_name, _abi.ERRORS),
            (lib.hol_status_name, _abi.STATUSES),
            (lib.hol_event_name, _abi.EVENTS),
            (lib.hol_problem_name, dict(enumerate(_abi.PROBLEMS, 1))),
            (lib.hol_recovered_name, dict(enumerate(_abi.RECOVERED, 1))),
        ):
            for number, name in names.items():
                self.assertEqual(ask(number).decode(), name)
            self.assertEqual(ask(77), b"unknown")

    def test_functions_are_those_of_the_header(self) -> None:
        declared = re.findall(r"^(?:HOL_MUST_USE )?[a-z][\w ]* \**(hol_\w+)\(", HEADER, re.MULTILINE)
        self.assertEqual(sorted(_abi.SIGNATURES), sorted(declared))

    def test_arguments_are_as_many_as_in_the_header(self) -> None:
        for name, (_, arguments) in _abi.SIGNATURES.items():
            declared = re.search(rf"^(?:HOL_MUST_USE )?[a-z][\w ]* \**{name}\(([^)]*)\);", HEADER, re.MULTILINE)
            self.assertIsNotNone(declared, name)
            count = 0 if declared[1] == "void" else declared[1].count(",") + 1
            self.assertEqual(len(arguments), count, name)

    def test_structures_have_the_librarys_sizes(self) -> None:
        for name, structure in _abi.STRUCTURES.items():
            size = ctypes.c_size_t()
            self.assertEqual(lib.hol_sizeof(name.encode(), ctypes.byref(size)), _abi.OK)
            self.assertEqual(ctypes.sizeof(structure), size.value, name)

    def test_structures_have_the_headers_fields_in_order(self) -> None:
        for name, structure in _abi.STRUCTURES.items():
            body = re.search(rf"typedef struct {name} {{(.*?)^}} {name};", HEADER, re.DOTALL | re.MULTILINE)[1]
            fields = re.findall(r"^  (?!/| \*)[\w *]+[ *](\w+);$", body, re.MULTILINE)
            self.assertEqual([field[0] for field in structure._fields_], fields, name)

    def test_the_library_is_of_the_headers_version(self) -> None:
        version = re.search(r'#define HOL_VERSION "(.*)"', HEADER)[1]
        self.assertEqual(lib.hol_version().decode(), version)
        project = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
        self.assertIn(f'version = "{version}"', project)


if __name__ == "__main__":
    unittest.main()
