"""tests/soak.py: it passes when all is well, and sees a wrong answer and memory that grows."""
import os
import subprocess
import sys

from conftest import MINKE, ROOT

sys.path.insert(0, str(ROOT / "tests"))
import soak  # noqa: E402


def test_a_short_soak(tmp_path):
    p = subprocess.run([sys.executable, ROOT / "tests/soak.py", "--minutes", "0.05", "--clients", "12", "--questions", "4",
                        "--cancels", "0.3"], capture_output=True, text=True, timeout=120, check=False,
                       env=os.environ | {"MINKE_BIN": str(MINKE), "HOME": str(tmp_path)})
    assert p.returncode == 0 and "soak: passed" in p.stdout, p.stdout + p.stderr


def test_a_wrong_answer_is_seen(served, monkeypatch):
    learn = soak.Soak.learn

    async def wrongly(self):
        await learn(self)
        self.questions[0].answer = self.questions[1].answer

    monkeypatch.setattr(soak.Soak, "learn", wrongly)
    args = type("args", (), {"questions": 2, "seed": 1, "minutes": 0.03, "clients": 4, "cancels": 0.0})
    done = soak.asyncio.run(soak.run(args, served, []))
    assert done.wrong and all("instead of" in w for w in done.wrong)


def test_growth_is_seen():
    flat = [(100 << 20, 50)] * 100
    assert soak.judge(flat, 10) == []
    assert "memory" in soak.judge([(m + (i << 20), f) for i, (m, f) in enumerate(flat)], 10)[0]
    assert "descriptors" in soak.judge([(m, f + i) for i, (m, f) in enumerate(flat)], 10)[0]
