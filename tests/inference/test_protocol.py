"""The protocol: input sizes, invalid values, and the hash of its settings."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import pytest

from maskclip import InputError, Protocol


@pytest.mark.parametrize(
    ("protocol", "size", "expected"),
    [
        (Protocol(), (375, 500), (375, 500)),
        (Protocol(long_side=520), (375, 500), (390, 520)),
        (Protocol(long_side=520), (500, 375), (520, 390)),
        (Protocol(short_side=512, long_side=2048), (375, 500), (512, 683)),
        (Protocol(short_side=512, long_side=2048), (100, 1000), (205, 2048)),
        (Protocol(short_side=1), (500, 3), (167, 1)),
        (Protocol(long_side=10), (1000, 1), (10, 1)),
    ],
)
def test_input_sizes_of_the_published_protocols(protocol: Protocol, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert protocol.input_sizes(*size) == [expected]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": 0}, "protocol.short_side=0"),
        ({"long_side": 1.5}, "protocol.long_side=1.5"),
        ({"short_side": True}, "protocol.short_side=True"),
        ({"window": 224}, "protocol.window=224 protocol.stride=None"),
        ({"window": 224, "stride": 225}, "protocol.stride=225 is larger than protocol.window=224"),
        ({"scales": []}, "protocol.scales=[]"),
        ({"scales": 336}, "protocol.scales=336"),
        ({"scales": [336, 0]}, "protocol.scales contains 0"),
        ({"scales": [336], "short_side": 336}, "set only one of them"),
        ({"flip": "yes"}, "protocol.flip=yes"),
        ({"average": "labels"}, "protocol.average=labels: choose logits or probabilities"),
        ({"synonyms": "all"}, "protocol.synonyms=all"),
        ({"precision": "int8"}, "protocol.precision=int8"),
        ({"logit_scale": 0}, "protocol.logit_scale=0"),
        ({"background_threshold": 40}, "protocol.background_threshold=40"),
        ({"area_threshold": -0.1}, "protocol.area_threshold=-0.1"),
        ({"area_threshold": True}, "protocol.area_threshold=True"),
        ({"batch_size": 0}, "protocol.batch_size=0"),
        ({"max_pixels": None}, "protocol.max_pixels=None"),
    ],
)
def test_invalid_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Protocol(**values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_equivalent_settings_are_equal() -> None:
    assert Protocol(scales=[512], logit_scale=40, background_threshold=0) == Protocol(512, logit_scale=40.0, background_threshold=0.0)
    assert Protocol(logit_scale=40).hash == Protocol(logit_scale=40.0).hash and Protocol(scales=[512]).hash == Protocol(512).hash


def test_settings_restore_the_protocol() -> None:
    protocol = Protocol(**{"short_side": 512, "long_side": 2048})
    assert Protocol(**protocol.settings) == protocol
    assert Protocol(scales=[224, 336]) == Protocol(scales=(224, 336))
    assert Protocol(scales=[224, 336]).hash == Protocol(scales=(224, 336), batch_size=1).hash != Protocol(scales=[336, 224]).hash
    assert Protocol().hash != Protocol(flip=True).hash and len(Protocol().hash) == 12


OTHER_VALUES = {
    "short_side": 336,
    "long_side": 2048,
    "window": 224,
    "stride": 112,
    "scales": (224, 336),
    "flip": True,
    "average": "probabilities",
    "logit_scale": 40.0,
    "background_threshold": 0.1,
    "synonyms": "probability",
    "precision": "bf16",
    "batch_size": 1,
    "max_pixels": 1000,
    "area_threshold": 0.1,
}
"""For each field, a value other than its default."""


def test_the_hash_covers_every_field_but_batch() -> None:
    assert set(OTHER_VALUES) == {field.name for field in fields(Protocol)}
    for name, value in OTHER_VALUES.items():
        changed = copy(Protocol())
        object.__setattr__(changed, name, value)  # without validation, which requires a stride for a window
        assert (changed.hash == Protocol().hash) == (name == "batch_size")


@dataclass(frozen=True)
class Later(Protocol):
    """A later version of the protocol, with another default and a new field."""

    flip: bool = True
    added: int = 0


def test_the_hash_depends_on_values_not_on_defaults() -> None:
    assert Later().hash != Later(flip=False).hash and Later(added=1).hash != Later().hash
    assert Protocol().settings.items() <= Later(flip=False).settings.items()

    @dataclass(frozen=True)
    class Changed(Protocol):
        flip: bool = True

    assert Changed().hash != Protocol().hash  # neither sets any value explicitly
    assert Changed(flip=False).hash == Protocol().hash
