#!/usr/bin/env python3
"""An event file as TensorBoard's own package writes it (tests/train/test_tbevents.c repeats the values).

    python -m venv V && V/bin/pip install tensorboard && V/bin/python tests/golden/gen_tbevents.py

Writes tests/golden/tbevents.bin; no TensorFlow needed.
"""
import os

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = os.path.dirname(os.path.abspath(__file__))
# steps around the lengths of a varint, values around those of a float; a tag longer than one byte of length can say
EVENTS = [
    (0, [("loss", 0.0)]),
    (1, [("loss", -1.5), ("reward/</script>\u00e4", 3.14159)]),
    (127, [("lr", 1e-40)]),
    (128, [("x" * 200, 3e38), ("loss", float("inf"))]),
    (300, [("loss", 1 / 3)]),
    (2**53, [("", -2.0)]),
]

with open(os.path.join(HERE, "tbevents.bin"), "wb") as f:
    records = RecordWriter(f)
    records.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
    for step, values in EVENTS:
        summary = Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values])
        records.write(Event(wall_time=step, step=step, summary=summary).SerializeToString())
    records.flush()
