"""Where tokens of a packed row lie, and what each of them sees."""

import random
from dataclasses import replace

import pytest
import torch

from r1lab.grpo import packed, packed_model


def micro_batch(seed, groups=3, size=4, prompt=9, completion=7):
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    lengths = [rng.randint(1, prompt) for _ in range(groups)]
    prompts = torch.randint(5, 90, (groups, prompt), generator=g)
    masks = torch.stack([(torch.arange(prompt) >= prompt - length).long() for length in lengths])
    counts = torch.tensor([rng.randint(0, completion) for _ in range(groups * size)])
    mask = (torch.arange(completion) < counts[:, None]).long()
    ids = torch.randint(5, 90, (groups * size, completion), generator=g) * mask
    return prompts.repeat_interleave(size, 0), masks.repeat_interleave(size, 0), ids, mask


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_each_scored_token_is_predicted_from_all_that_comes_before_it(seed, share):
    prompt_ids, prompt_mask, ids, mask = micro_batch(seed)
    row = packed.pack(prompt_ids, prompt_mask, ids, mask, share=share)
    sees = seen(row)
    expected = {}
    for i in range(len(ids)):
        before = prompt_ids[i][prompt_mask[i].bool()].tolist()
        for target in ids[i][mask[i].bool()].tolist():
            expected.setdefault((i, *before), target)
            before = [*before, target]
    of = [i for i, many in zip(row.scored[representatives(row)].tolist(), row.mask.sum(1)) for _ in range(many)]
    places = zip(of, row.places.tolist(), row.targets.tolist())
    found = {(i, *row.ids[0][sees[place]].tolist()): target for i, place, target in places}
    assert found == {k: v for k, v in expected.items() if k[0] in set(of)}
    assert row.ids.size(1) == sum(part.tokens for part in row.parts)
    assert torch.equal(row.unpack(row.targets), ids * mask)
    if share:  # each distinct prompt once, the last token of each completion not at all
        some = mask.any(dim=1)
        distinct = {tuple(p[m.bool()].tolist()) for p, m in zip(prompt_ids[some], prompt_mask[some])}
        assert row.ids.size(1) == sum(map(len, distinct)) + int((row.mask.sum(1) - 1).sum())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_replies_are_read_and_not_scored(seed, share):
    """Of every completion some tokens are an environment's: places and targets are those of the others, exactly."""
    prompt_ids, prompt_mask, ids, mask = micro_batch(seed)
    own = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.6).long()
    own[2] = 0  # a row of which nothing is scored
    whole = packed.pack(prompt_ids, prompt_mask, ids, mask, share=False)
    row = packed.pack(prompt_ids, prompt_mask, ids, mask, own, share=share)
    assert len(row.targets) == int(row.mask.sum()) and torch.equal(row.unpack(row.targets), ids * mask * own)
    if not share:
        assert len(row.targets) == int((mask * own).sum())

    def predicted(packed_row):
        """For each scored token of a row of the batch: all that it is predicted from."""
        sees, of, found = seen(packed_row), packed_row.unpack(torch.arange(1, len(packed_row.targets) + 1)), {}
        for i, j in of.nonzero().tolist():
            place = packed_row.places[of[i, j] - 1].item()
            found[i, j] = packed_row.ids[0][sees[place]].tolist()
        return found

    everything = predicted(whole)
    assert predicted(row) == {(i, j): everything[i, j] for i, j in (mask * own).nonzero().tolist()}


def representatives(row):
    """For each distinct completion the first of the scored rows that it stands for."""
    return [row.twin.tolist().index(d) for d in range(len(row.mask))]


@pytest.mark.parametrize("share", [True, False])
def test_equal_completions_of_a_prompt_are_computed_once(share):
    prompt_ids, prompt_mask, ids, mask = micro_batch(3)
    ids[1], mask[1] = ids[0], mask[0]
    ids[7], mask[7] = ids[0], mask[0]  # of another prompt
    row = packed.pack(prompt_ids, prompt_mask, ids, mask, share=share)
    assert len(row.mask) == int(mask.any(dim=1).sum()) - share
    assert torch.equal(row.unpack(row.targets), ids * mask)
    pull = torch.randn(ids.shape)
    values = torch.zeros(len(row.targets), requires_grad=True)
    (row.unpack(values) * pull).sum().backward()
    expected = (pull * mask)[row.scored[representatives(row)]]
    if share:
        expected[row.twin[0]] += (pull * mask)[1]
    torch.testing.assert_close(values.grad, expected[row.mask])


def seen(row) -> dict[int, list[int]]:
    """For each place of the row the places that it attends to, in the order of their positions."""
    found, place = {}, 0
    for part in row.parts:
        visible = part.mask(None, torch.float32)[:, 0] == 0
        n, longest = part.queries.shape
        for flat in part.kept.tolist():
            i, j = divmod(flat, longest)
            assert part.queries[i, j] == place
            keys = part.keys[i][visible[i, j]].tolist()
            assert row.positions[0][keys].tolist() == list(range(len(keys)))
            found[place] = keys
            place += 1
    return found


def test_attention_without_padding_is_attention_in_parts(monkeypatch):
    """Torch's kernel runs on CUDA alone: here its definition stands in for it, so that what it is given is tested."""

    def varlen_attn(query, key, value, starts, key_starts, longest, longest_key, *, scale, window_size, enable_gqa):
        outputs = []
        for a, b, c, d in zip(starts, starts[1:], key_starts, key_starts[1:]):
            assert b - a <= longest and d - c <= longest_key
            q, k, v = (x.transpose(0, 1) for x in (query[a:b], key[c:d], value[c:d]))
            behind = (torch.arange(b - a)[:, None] + (d - c) - (b - a)) - torch.arange(d - c)
            mask = (behind >= 0) & (behind <= (window_size[0] if window_size[0] >= 0 else 10**9))
            out = torch.nn.functional.scaled_dot_product_attention(
                q[None], k[None], v[None], mask, scale=scale, enable_gqa=enable_gqa
            )
            outputs.append(out[0].transpose(0, 1))
        return torch.cat(outputs)

    import torch.nn.attention.varlen

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    row = packed.pack(*micro_batch(7))
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, heads, row.ids.size(1), 8, generator=g, dtype=torch.float64) for heads in (4, 2, 2)]
    for window in (None, 3):
        settings = {"scaling": 0.3, "sliding_window": window}
        plain, _ = packed_model.attend("sdpa", module, *tensors, None, packed=row, **settings)
        ours = packed_model.varying(row, *(x[0].transpose(0, 1) for x in tensors), settings)
        torch.testing.assert_close(ours, plain[0])


def test_under_autocast_attention_is_chosen_by_the_dtype_that_it_computes_in(monkeypatch):
    """Rotary embeddings make queries and keys float32, and torch's kernel for varying lengths takes half precision."""
    kinds = []
    monkeypatch.setattr(packed_model, "can_vary", lambda query, value, _: kinds.extend([query.dtype, value.dtype]))
    row, module = packed.pack(*micro_batch(7)), torch.nn.Module()
    module.num_key_value_groups = 2
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, heads, row.ids.size(1), 8, generator=g) for heads in (4, 2, 2)]
    plain, _ = packed_model.attend("sdpa", module, *tensors, None, packed=row, scaling=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = packed_model.attend("sdpa", module, *tensors, None, packed=row, scaling=0.3)
    assert kinds == [torch.float32] * 2 + [torch.bfloat16] * 2
    torch.testing.assert_close(ours.float(), plain, atol=0.03, rtol=0.03)


def test_why_a_model_cannot_run_packed_rows():
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    small = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    for kind, more, why in (
        ("qwen2", {"num_attention_heads": 2, "num_key_value_heads": 2}, None),
        ("granite", {"num_attention_heads": 2, "num_key_value_heads": 2, "logits_scaling": 2.0}, "scales its logits"),
        ("mamba", {"state_size": 4}, "does not support another attention function"),
    ):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small, **more))
        before = model.config._attn_implementation
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        told = packed_model.install(model)
        assert (told is None) if why is None else why in told
        assert (model.config._attn_implementation == before) == (why is not None)


def test_a_model_that_packed_rows_do_not_fit_is_left_as_it_was(monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen2", vocab_size=50, num_hidden_layers=2, initializer_range=1.0, **sizes)
    )
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    forward, plain = model.forward, packed._part
    # As of an architecture whose tokens see more than what came before.
    monkeypatch.setattr(packed, "_part", lambda *args: replace(plain(*args), distance=plain(*args).distance + 1))
    assert "differ by" in packed_model.install(model)
    assert model.forward == forward and model.config._attn_implementation == "sdpa"
