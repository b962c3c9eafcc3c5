"""The reader of compiled programs, on programs written by hand whose totals are counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from igpt_jax.planning.collectives import find_collectives
from igpt_jax.planning.costs import find_work, total_bytes, total_flops
from igpt_jax.planning.hlo import Shape, parse_module, parse_shapes

HERE = Path(__file__).parent
LOOP = (HERE / "loop.hlo").read_text()
KNOWN = LOOP.replace(
    "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"6"},"known":"x"}'
)


def test_shapes():
    text = "(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[], pred[3]{0}, token[])"
    array, scalar, flags, token = parse_shapes(text)
    assert array == Shape("bf16", (4, 8), on_chip=True)
    assert (array.num_bytes, scalar.num_bytes, flags.num_bytes) == (64, 4, 3)
    assert token.num_bytes == 0


def test_loops_run_as_often_as_their_condition_or_the_compiler_says():
    for text, times in ((LOOP, 4), (KNOWN, 6)):
        runs = {name: count for name, count, _ in parse_module(text).executed()}
        assert runs["body"] == times
        assert runs["main"] == 1
        assert "add.clone" not in runs  # what is summed costs nothing beside the sum


@pytest.mark.parametrize(
    ("next_count", "times"),
    [
        ("%next = u32[] add(%n, %one)", 31),
        ("%next = u32[] add(%n, %two)", 16),  # of 31, the last half of a round is the body's own
        ("%more = u32[] add(%n, %one)\n  %next = u32[] add(%two, %more)", 11),
        ("%next = u32[] multiply(%n, %two)", 31),  # not plainly added: at most
    ],
)
def test_loops_whose_counter_grows_by_more_than_one(next_count, times):
    text = f"""HloModule m

%body (t: (f32[8], u32[])) -> (f32[8], u32[]) {{
  %t = (f32[8]{{0}}, u32[]) parameter(0)
  %x = f32[8]{{0}} get-tuple-element(%t), index=0
  %n = u32[] get-tuple-element(%t), index=1
  %one = u32[] constant(1)
  %two = u32[] constant(2)
  {next_count}
  ROOT %r = (f32[8]{{0}}, u32[]) tuple(%x, %next)
}}

%condition (s: (f32[8], u32[])) -> pred[] {{
  %s = (f32[8]{{0}}, u32[]) parameter(0)
  %count = u32[] get-tuple-element(%s), index=1
  %limit = u32[] constant(31)
  ROOT %less = pred[] compare(%count, %limit), direction=LT
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  %zero = u32[] constant(0)
  %start = (f32[8]{{0}}, u32[]) tuple(%a, %zero)
  %loop = (f32[8]{{0}}, u32[]) while(%start), condition=%condition, body=%body
  ROOT %out = f32[8]{{0}} get-tuple-element(%loop), index=0
}}
"""
    runs = {name: count for name, count, _ in parse_module(text).executed()}
    assert runs["body"] == times


def test_collectives_of_a_loop():
    gathered, summed = find_collectives(parse_module(LOOP), num_devices=8)
    assert (gathered.kind, gathered.group_size, gathered.count) == ("all-gather", 4, 4)
    assert gathered.largest == 256 * 128 * 2
    assert gathered.num_bytes == 4 * 256 * 128 * 2
    assert gathered.bytes_sent == gathered.num_bytes * 3 / 4
    assert (summed.kind, summed.group_size, summed.count) == ("all-reduce", 2, 4)
    assert summed.num_bytes == 4 * 32 * 128 * 4
    assert summed.bytes_sent == summed.num_bytes  # half out, half back


def test_work_of_a_loop():
    work = find_work(parse_module(LOOP))
    assert total_flops(work) == 4 * 2 * 32 * 256 * 128
    # A layer of the stack is read (into the chip's own memory), a product reads and writes, and
    # the condition's few bytes.
    layer, product = 64 * 128 * 2, 32 * 256 * 2 + 256 * 128 * 2 + 32 * 128 * 4
    few = total_bytes(work) - 4 * (layer + product)
    assert 0 <= few < 4 * 64


GROUPS = {
    "replica_groups={{0,1,2},{3,4,5}}": 3,
    "replica_groups=[4,2]<=[2,4]T(1,0)": 2,
    "replica_groups=mesh['a'=2,'b'=1,'c'=4] {'a','c'}": 8,
    "replica_groups=mesh['a'=2,'b'=8] {'b':(2)4}": 4,
    "replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'a'}": 4,
    "replica_groups={}": 16,
}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("kind", ["all-reduce", "reduce-scatter", "all-to-all", "all-gather-start"])
def test_sizes_of_groups(groups, kind):
    text = f"""HloModule m

ENTRY %main (a: f32[48]) -> f32[48] {{
  %a = f32[48]{{0}} parameter(0)
  ROOT %r = f32[48]{{0}} {kind}(%a), channel_id=3, {groups}, dimensions={{0}}
}}
"""
    (found,) = find_collectives(parse_module(text), num_devices=16)
    size = GROUPS[groups]
    assert found.group_size == size
    assert found.num_bytes == 48 * 4 * (size if kind.startswith("all-gather") else 1)
    assert found.in_background == kind.endswith("-start")
    assert found.kind == kind.removesuffix("-start")


def test_pieces_of_one_collective_count_once():
    piece = (
        "  %g{0} = bf16[8,16]{{1,0}} all-gather(%a), channel_id=7, replica_groups=[1,2]<=[2], "
        'dimensions={{0}}, frontend_attributes={{chain_id="2"}}\n'
    )
    text = "HloModule m\n\nENTRY %main (a: bf16[4,16]) -> bf16[8,16] {\n"
    text += "  %a = bf16[4,16]{1,0} parameter(0)\n" + piece.format(1) + piece.format(2) + "}\n"
    (found,) = find_collectives(parse_module(text), num_devices=2)
    assert (found.count, found.num_bytes, found.in_background) == (1, 8 * 16 * 2, 1)


@pytest.mark.parametrize(
    ("attribute", "in_background"),
    [('chain_id="2"', 1), ('async_collective_name="all-gather-start.8"', 0), ('other="1"', 0)],
)
def test_collectives_that_the_compiler_made_wait_again(attribute, in_background):
    text = f"""HloModule m

ENTRY %main (a: bf16[4,16]) -> bf16[8,16] {{
  %a = bf16[4,16]{{1,0}} parameter(0)
  ROOT %g = bf16[8,16]{{1,0}} all-gather(%a), channel_id=7, replica_groups=[1,2]<=[2], \
dimensions={{0}}, frontend_attributes={{{attribute}}}
}}
""".replace("\\\n", "")
    (found,) = find_collectives(parse_module(text), num_devices=2)
    assert found.in_background == in_background


def test_a_sum_of_which_each_keeps_a_part_is_a_reduce_scatter():
    text = """HloModule m

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (p: f32[64]) -> f32[16] {
  %p = f32[64]{0} parameter(0)
  %all = f32[64]{0} all-reduce(%p), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%sum
  %i = s32[] constant(0)
  ROOT %part = f32[16]{0} dynamic-slice(%all, %i), dynamic_slice_sizes={16}
}

ENTRY %main (a: f32[64]) -> f32[16] {
  %a = f32[64]{0} parameter(0)
  ROOT %f = f32[16]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    (found,) = find_collectives(parse_module(text), num_devices=4)
    assert found.kind == "reduce-scatter"
    assert found.bytes_sent == 64 * 4 * 3 / 4


def convolution(window, labels, left, right, result):
    return f"""HloModule m

ENTRY %main (a: f32[{left}], b: f32[{right}]) -> f32[{result}] {{
  %a = f32[{left}]{{3,2,1,0}} parameter(0)
  %b = f32[{right}]{{3,2,1,0}} parameter(1)
  ROOT %c = f32[{result}]{{3,2,1,0}} convolution(%a, %b), {window}dim_labels={labels}
}}
"""


def convolution_flops(*parts):
    return total_flops(find_work(parse_module(convolution(*parts))))


def test_convolutions():
    plain = ("window={size=1x1}, ", "b01f_01io->b01f", "2,8,8,4", "1,1,4,16", "2,8,8,16")
    assert convolution_flops(*plain) == 2 * 2 * 8 * 8 * 4 * 16
    # 3 x 3 with a border of zeros: only products with elements of the image count.
    window = "window={size=3x3 pad=1_1x1_1}, "
    shapes = ("b01f_01io->b01f", "1,5,5,1", "3,3,1,1", "1,5,5,1")
    meets = sum(0 <= o + k - 1 < 5 for o in range(5) for k in range(3))
    assert convolution_flops(window, *shapes) == 2 * meets**2
    # A batched product as TPUs write it: 16 groups along a dilated spatial axis.
    window = "window={size=16 stride=15 lhs_dilate=16}, "
    shapes = ("0bf_0io->0bf", "16,8,32", "16,32,4", "16,8,4")
    assert convolution_flops(window, *shapes) == pytest.approx(2 * 16 * 8 * 32 * 4)


def test_a_program_without_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse_module("HloModule m\n")


def test_dots_with_batch_axes():
    work = find_work(parse_module((HERE / "dot.hlo").read_text()))
    assert total_flops(work) == 2 * np.prod([3, 4, 5, 6])
    assert total_bytes(work) == 4 * (60 + 90 + 72)


def test_kernels_say_what_they_compute():
    text = """HloModule m

ENTRY %main (a: bf16[8,16]) -> bf16[8,16] {
  %a = bf16[8,16]{1,0} parameter(0)
  ROOT %k = bf16[8,16]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", \\
backend_config={"custom_call_config":{"body":"TUw","cost_estimate":{"flops":"4096","bytes":"1"}}}
}
""".replace("\\\n", "")
    work = find_work(parse_module(text))
    assert total_flops(work) == 4096
    assert total_bytes(work) == 2 * 8 * 16 * 2


@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_attention_computes_the_blocks_it_sees(kernel, products):
    """The kernel's lines of its own end neither its computation nor what is behind it."""
    module = parse_module((HERE / "attention.hlo").read_text().replace("NAME", kernel))
    assert list(module.computations["body"])[-1] == "out"
    seen = sum(key <= query for query in range(4) for key in range(4)) * 256**2
    attention = products * 2 * (2 * 4) * seen * 64
    assert total_flops(find_work(module)) == attention + 2 * 8192 * 64 * 64


def test_a_slice_inside_of_a_fusion_inside_of_a_fusion():
    """One layer of a stack is read, and one is written."""
    text = (HERE / "nested.hlo").read_text()
    layer, index = 64 * 32, 4
    assert total_bytes(find_work(parse_module(text))) == 2 * layer + 4 * layer + index


def test_values_that_are_handed_on():
    """By a bitcast that is all of a fusion, by a copy in place, by a fusion that also gathers."""
    work = find_work(parse_module((HERE / "nested_same.hlo").read_text()))
    product, sum_, mask = (one.num_bytes for one in work)
    assert product == 2 * 12 * 64 * 32 + 2 * 2048 * 16 + 4 * 12 * 16
    assert sum_ == 2 * 4 * 8 * 8  # what moves over the network is counted there
    assert mask == 64 * 32 + 64 * 32 + 4


def test_copies_in_the_background_and_room_that_is_only_kept():
    text = """HloModule m

ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  %s = (f32[64]{0:S(1)}, f32[64]{0}, u32[]) copy-start(%a)
  %d = f32[64]{0:S(1)} copy-done(%s)
  %t = ((f32[64]{0}), f32[16]{0:S(1)}, s32[]) slice-start(%a), slice={[16:32]}
  %u = f32[16]{0:S(1)} slice-done(%t)
  %room = f32[4096]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %r = f32[64]{0} add(%d, %d)
}
"""
    moved = [one for one in find_work(parse_module(text)) if one.num_bytes]
    assert [(one.num_bytes, one.in_background) for one in moved] == [
        (256, True),
        (64, True),
        (256, False),
    ]


@pytest.mark.parametrize(
    ("kernel", "flops"),
    [
        (
            '(f32[96,32]{1,0}, s8[64]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", '
            'backend_config={"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":'
            '{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}',
            2 * 96 * 32 * 48,
        ),
        (
            "(bf16[2,8,512,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), "
            'custom_call_target="__cudnn$fmhaSoftmax", backend_config='
            '{"cudnn_fmha_backend_config":{"fmha_scale":0.125,"mask_type":"CAUSAL"}}',
            2 * 2 * (2 * 8) * (512 * 512 / 2) * 64,
        ),
        (
            "(bf16[2,8,512,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), "
            'custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config='
            '{"cudnn_fmha_backend_config":{"fmha_scale":0.125,"mask_type":"NO_MASK"}}',
            2 * 5 * (2 * 8) * (512 * 512) * 64,
        ),
    ],
    ids=["product", "attention", "its gradient"],
)
def test_libraries_of_gpus(kernel, flops):
    text = f"""HloModule m

ENTRY %main (x: f32[48,96], w: f32[48,32], q: bf16[2,512,8,64]) -> f32[] {{
  %x = f32[48,96]{{1,0}} parameter(0)
  %w = f32[48,32]{{1,0}} parameter(1)
  %q = bf16[2,512,8,64]{{3,2,1,0}} parameter(2)
  ROOT %k = {kernel}
}}
"""
    assert total_flops(find_work(parse_module(text))) == flops
