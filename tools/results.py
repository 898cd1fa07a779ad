"""What the test tools share: one line per check, 'pass NAME', 'fail NAME' or 'skip NAME', kept in the file $RESULTS."""
import os


class Results:
    def __init__(self):
        self.rows = []

    def add(self, outcome, name):
        assert outcome in ("pass", "fail", "skip")
        self.rows.append((outcome, name))

    def count(self, outcome):
        return sum(1 for o, _ in self.rows if o == outcome)

    def names(self, outcome):
        return [n for o, n in self.rows if o == outcome]

    def save(self):
        path = os.environ.get("RESULTS")
        if path:
            with open(path, "w", encoding="utf-8") as f:
                f.writelines(f"{o} {n}\n" for o, n in self.rows)

    def load(self, path):
        with open(path, encoding="utf-8") as f:
            for line in f:
                outcome, _, name = line.rstrip("\n").partition(" ")
                self.add(outcome, name)

    def summary(self):
        """The line that ends `make test`; the third number only when something was skipped."""
        line = f"{self.count('pass')} passed, {self.count('fail')} failed"
        return line + (f", {self.count('skip')} skipped" if self.count("skip") else "")
