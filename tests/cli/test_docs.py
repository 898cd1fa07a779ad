"""The tests and files that docs/security.md names are there."""
import re

from conftest import ROOT


def test_what_the_security_page_names_is_there():
    text = (ROOT / "docs/security.md").read_text()
    sources = "\n".join(p.read_text() for d in ("cli", "web", "net", "serve", "engine", "chat", "base")
                        for p in sorted((ROOT / "tests" / d).glob("test_*.*")))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert len(tests) > 50
    assert not [t for t in sorted(tests) if not re.search(rf"^(def|static void) {t}\(", sources, flags=re.M)]
    files = re.findall(r"`((?:tests|src)/[\w/.]+)`", text) + [f"docs/{f}" for f in re.findall(r"\]\(([\w-]+\.md)\)", text)]
    assert files and not [f for f in files if not (ROOT / f).exists()]
