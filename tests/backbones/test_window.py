"""caption_window: the same verdict as the backbone itself, from its tokenizers."""

import pytest

from spf.backbones.window import caption_window
from spf.errors import InvalidInput, ModelNotFound
from spf.method.phrases import join_prompt


@pytest.mark.parametrize("family", ["unet", "mmdit"])
@pytest.mark.parametrize("base, target, usable", [
    ("a person, with red hair", "a winter hat", None),
    (", ".join(f"a zzqj{i} hat" for i in range(30)), "a winter hat", True),
    ("zzqj " * 60, "a winter hat", False),
    ("a person", "zzqj " * 60, False),
])
def test_it_says_what_encoding_would(tiny, backbone, base, target, usable):
    found = caption_window(tiny)(base, target)
    assert (found and found[0]) is usable
    prompt = join_prompt(base, [target])
    if usable is False:
        assert "shorten" in found[1]
        with pytest.raises(InvalidInput):
            backbone.encode_prompts([prompt])
    else:
        fitted = backbone.encode_prompts([prompt]).prompts[0]
        assert (fitted == prompt) is (usable is None)
        assert usable is None or f"after '{fitted.base.text[-40:]}'" in found[1]


def test_a_model_that_is_not_there(tiny):
    with pytest.raises(ModelNotFound, match="does not exist"):
        caption_window(tiny.model_copy(update={"pretrained_model_name_or_path": "./nowhere"}))
