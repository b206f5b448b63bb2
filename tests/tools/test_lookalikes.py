"""scripts/lookalikes.py: from Unicode's files to what the rule for names needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lookalikes
import pytest

from mpchat.chat.state import lookalikes as generated

ROOT = Path(__file__).parents[2]

CONFUSABLES = """\
\ufeff# confusables.txt
# Version: 15.0.0
0430 ;\t0061 ;\tMA\t# ( а → a ) CYRILLIC SMALL LETTER A → LATIN SMALL LETTER A\t#
006D ;\t0072 006E ;\tMA\t# ( m → rn )
2024 ;\t002E ;\tMA\t# a compatibility character
0021 ;\t01C3 ;\tMA\t# no name has it
1D41A ;\t0061 ;\tMA\t# nor this, after NFKC
"""
SCRIPTS = """\
# Scripts-15.0.0.txt
0041..005A    ; Latin # L&  [26]
005B..0060    ; Common # Sm
0061          ; Latin # L&
0062..007A    ; Latin # L&
10140..10174  ; Greek # Nl
0370          ; Greek # L&
0400..0484    ; Cyrillic # L&
"""
PROPERTIES = """\
# DerivedCoreProperties-15.0.0.txt
00AD          ; Default_Ignorable_Code_Point # Cf
0041..005A    ; Alphabetic # L&
FE00..FE0F    ; Default_Ignorable_Code_Point # Mn
E0000         ; Default_Ignorable_Code_Point # Cn
"""


def test_only_what_a_name_can_have_is_kept() -> None:
    assert lookalikes.read_confusables(CONFUSABLES) == {"а": "a", "m": "rn"}


def test_ranges_are_merged() -> None:
    assert lookalikes.read_ranges(SCRIPTS, "Latin") == [(0x41, 0x5A), (0x61, 0x7A)]
    assert lookalikes.read_ranges(SCRIPTS, "Greek") == [(0x370, 0x370), (0x10140, 0x10174)]


def test_the_module_passes_ruff_and_says_the_version(tmp_path: Path) -> None:
    text = lookalikes.generate(CONFUSABLES, SCRIPTS, PROPERTIES)
    names: dict[str, object] = {}
    exec(compile(text, "lookalikes.py", "exec"), names)
    assert names["UNICODE"] == "15.0.0"
    assert names["CONFUSABLES"] == {"a": "а", "rn": "m"}
    assert names["GREEK"] == "[\u0370]|[\U00010140-\U00010174]"
    assert names["IGNORABLE"] == "[\u00ad\ufe00-\ufe0f]|[\U000e0000]"
    module = tmp_path / "lookalikes.py"
    module.write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(module)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).returncode == 0


def test_files_of_several_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="15.0.0, 15.1.0".replace(".", r"\.")):
        lookalikes.generate(CONFUSABLES.replace("15.0.0", "15.1.0"), SCRIPTS, PROPERTIES)


def test_what_is_in_the_package_names_its_licence() -> None:
    assert generated.__doc__ is not None
    assert "LICENSES/Unicode.txt" in generated.__doc__
    licence = (ROOT / "LICENSES" / "Unicode.txt").read_text("utf-8")
    assert generated.UNICODE in licence
    assert "Copyright © 1991-2022 Unicode, Inc." in licence
