import copyreg
import math
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES
from igpt_jax.interop.torch_file import open_torch

DATA = Path(__file__).parent / "data"  # written by data/write_torch_files.py with PyTorch 2.15
FILES = ("dtypes.pt", "views.pth", "views_before_1_6.pth", "lightning.ckpt", "llamagen.pt")


def ramp(*shape, dtype="float32", start=0):
    counts = np.arange(start, start + math.prod(shape)).reshape(shape)
    return counts.astype(DTYPES[dtype])


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found.specs[name].shape == array.shape, name
        assert found.specs[name].dtype == array.dtype, name
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_every_dtype():
    names = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    expected = {name: ramp(2, 3, dtype=name, start=-2) for name in names}
    expected["uint8"] = ramp(2, 3, dtype="uint8")
    expected["complex64"] = ramp(2, 3, dtype="complex64", start=-2)
    expected["uint16"] = np.array([1, 65535], np.uint16)
    expected["float8_e4m3fn"] = np.array([1.0, -2.5], DTYPES["float8_e4m3fn"])
    expected["bool"] = np.array([True, False, True])
    assert_same(open_torch(DATA / "dtypes.pt"), expected)


def expected_views():
    base = ramp(4, 6)
    return {
        "base": base,
        "transposed": base.T,
        "inner": base[1:3, 2:5],
        "every_second": base[::2, 1::3],
        "shared_row": base[2],
        "expanded": np.broadcast_to(ramp(1, 3), (4, 3)),
        "channels_last": ramp(2, 3, 2, 2),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": ramp(3),
        "frozen": ramp(3),
        "attributed": ramp(2, start=7),
    }


def test_views_and_parameters():
    assert_same(open_torch(DATA / "views.pth"), expected_views())


def test_the_format_before_1_6():
    expected = expected_views()
    del expected["attributed"]
    assert_same(open_torch(DATA / "views_before_1_6.pth"), expected)


@pytest.mark.parametrize("name", ["views.pth", "views_before_1_6.pth"])
def test_rows_of_views(name):
    arrays = open_torch(DATA / name)
    for view, expected in expected_views().items():
        if expected.ndim == 0 or view not in arrays:
            continue
        for rows in (slice(1, 2), slice(None), slice(1, None), slice(0, 0), slice(-1, None)):
            part = arrays.read(view, (rows,))
            np.testing.assert_array_equal(part, expected[rows], strict=True, err_msg=view)
    np.testing.assert_array_equal(
        arrays.read("transposed", (slice(2, 5), slice(1, 3))), ramp(4, 6).T[2:5, 1:3], strict=True
    )


def test_arrays_are_new_and_may_be_changed():
    arrays = open_torch(DATA / "views.pth")
    for name in arrays:
        arrays[name][...] = -1
    assert_same(arrays, expected_views())


def test_a_checkpoint_of_lightning():
    arrays = open_torch(DATA / "lightning.ckpt")
    expected = {
        "weight": ramp(3, start=1),
        "bias": ramp(3, start=5),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.ones(3, np.float32),
        "num_batches_tracked": np.array(0, np.int64),
    }
    assert_same(arrays, expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, {"w": ramp(2, 2)}),
        ("model", {"w": ramp(2, 2)}),
        ("ema", {"w": ramp(2, 2, start=10)}),
        ("discriminator", {"d": ramp(3)}),
    ],
)
def test_an_entry_is_chosen(entry, expected):
    assert_same(open_torch(DATA / "llamagen.pt", entry), expected)


@pytest.mark.parametrize("entry", ["optimizer", "steps", "module"])
def test_an_entry_without_tensors_is_refused(entry):
    with pytest.raises(UserError) as caught:
        open_torch(DATA / "llamagen.pt", entry)
    message = str(caught.value)
    assert f"expected a mapping of tensors under {entry}, got entries 'model', 'ema'" in message
    assert "choose an entry that has tensors" in message


# Below, files are written by hand: what PyTorch writes, opcode by opcode, and what it would not.


def text(value):
    return b"V" + value.encode() + b"\n"


def tensor(
    *, offset=b"K\x00", shape=b"K\x04\x85", strides=b"K\x01\x85", count=b"K\x04", more=b"", key="0"
):
    """The opcodes of a tensor of float32."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count
    hooks = b"ccollections\nOrderedDict\n)R"
    start = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ"
    return start + offset + shape + strides + b"\x89" + hooks + more + b"tR"


def mapping(**entries):
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"}(" + items + b"u"


STORAGE = ramp(4)


def write_zip(path, body, *, order=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("any/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("any/byteorder", order)
        archive.writestr("any/data/0", STORAGE.tobytes())
    return path


def write_old(path, body, *, little=True):
    used = b"FloatStorage" in body
    magic, version = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    system, keys = pickle.dumps({"little_endian": little}, 2), pickle.dumps(["0"] * used, 2)
    head = magic + version + system + b"\x80\x02" + body + b"." + keys
    path.write_bytes(head + (struct.pack("<q", STORAGE.size) + STORAGE.tobytes()) * used)
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_old])


@WRITERS
@pytest.mark.parametrize(
    "body",
    [
        mapping(w=tensor()),
        mapping(w=tensor(), epoch=b"K\x03"),
        mapping(state_dict=mapping(w=tensor(), version=b"K\x01"), epoch=b"K\x03"),
        mapping(ema=mapping(v=tensor()), state_dict=mapping(w=tensor()), loss=tensor()),
        mapping(ema=mapping(v=tensor()), model=mapping(w=tensor())),
        mapping(module=mapping(w=tensor()), optimizer=mapping(state=mapping(m=tensor()))),
        mapping(w=tensor(more=b"}")),
        mapping(a=mapping(b=mapping(w=tensor()))),
        mapping(model=mapping(**{"module.w": tensor()})),
        mapping(**{"_orig_mod.module.w": tensor()}),
    ],
)
def test_where_the_mapping_is(tmp_path, write, body):
    assert_same(open_torch(write(tmp_path / "a.pt", body)), {"w": ramp(4)})


@WRITERS
@pytest.mark.parametrize("entry", ["trainer.vae_local", "trainer.var_wo_ddp"])
def test_nested_entries_are_named_with_dots(tmp_path, write, entry):
    nested = mapping(vae_local=mapping(w=tensor()), var_wo_ddp=mapping(w=tensor()))
    path = write(tmp_path / "a.pt", mapping(trainer=nested, epoch=b"K\x03"))
    assert_same(open_torch(path, entry), {"w": ramp(4)})
    with pytest.raises(UserError, match=r"'trainer\.vae_local', 'trainer\.var_wo_ddp'"):
        open_torch(path)


@WRITERS
@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"]", "list"),
        (b"N", "NoneType"),
        (b"}", "dict"),
        (b"cmodels\nGPT\n)\x81}b", "an object"),
        (mapping(state_dict=b"}"), "entries 'state_dict'"),
        (mapping(a=mapping(w=tensor()), b=mapping(w=tensor())), "entries 'a', 'b'"),
        (mapping(loss=tensor(), a=mapping(w=tensor())), "entries 'a', 'loss'"),
        (
            mapping(a=mapping(b=mapping(w=tensor()), c=mapping(w=tensor()))),
            "entries 'a.b', 'a.c', 'a'",
        ),
        (mapping(w=tensor(more=mapping(neg=b"\x88"))), "entries 'w'"),
    ],
)
def test_no_mapping_or_several(tmp_path, write, body, got):
    path = write(tmp_path / "a.pt", body)
    with pytest.raises(UserError, match=f"under state_dict or model, got {got}; "):
        open_torch(path)


@WRITERS
@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": b"K\x01"},  # one element behind the end
        {"offset": b"J\xff\xff\xff\xff"},
        {"shape": b"K\x05\x85"},
        {"shape": b"J\xff\xff\xff\xff\x85"},
        {"shape": b"K\x02K\x02\x86"},  # two axes, one stride
        {"strides": b"K\x02\x85"},
        {"strides": b"J\xff\xff\xff\xff\x85"},
        {"shape": b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", "strides": b"K\x00\x85"},  # 2**40
        {"shape": b"G\x40\x10\x00\x00\x00\x00\x00\x00\x85"},  # 4.0
        {"count": b"K\x05"},
        {"count": b"\x8a\x06\x00\x00\x00\x00\x00\x01"},
        {"key": "1"},
        {"key": "../data.pkl"},
    ],
)
def test_tensors_that_do_not_fit(tmp_path, write, wrong):
    path = write(tmp_path / "a.pt", mapping(w=tensor(**wrong)))
    with pytest.raises(UserError, match=rf"{path}: expected a whole file of arrays, got .*; downl"):
        open_torch(path)


def test_a_member_that_is_compressed(tmp_path):
    bomb = mapping(w=tensor(), zeros=b"X" + struct.pack("<I", 10**7) + bytes(10**7))
    path = write_zip(tmp_path / "a.pt", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"any/data.pkl is compressed"):
        open_torch(path)


def test_big_endian_files(tmp_path):
    with pytest.raises(UserError, match=r"not little-endian"):
        open_torch(write_zip(tmp_path / "a.pt", mapping(w=tensor()), order=b"big"))
    with pytest.raises(UserError, match=r"another format"):
        open_torch(write_old(tmp_path / "a.pt", mapping(w=tensor()), little=False))


def test_a_tar_archive_is_too_old(tmp_path):
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        archive.add(DATA / "views.pth", "storages")
    with pytest.raises(UserError, match=r"tar archive; load it with PyTorch and save it as .safet"):
        open_torch(tmp_path / "a.pth")


def test_a_program_is_told_from_tensors(tmp_path):
    """As torch.jit.save lays files out: its code, and nothing else, is compressed."""
    with zipfile.ZipFile(tmp_path / "i3d.pt", "w") as archive:
        archive.writestr("i3d/data.pkl", mapping(w=tensor()))
        archive.writestr("i3d/code/__torch__.py", "class I3D:", zipfile.ZIP_DEFLATED)
        archive.writestr("i3d/constants.pkl", pickle.dumps(()))
    with pytest.raises(UserError, match=r"got a program of TorchScript; load it with torch\.jit"):
        open_torch(tmp_path / "i3d.pt")


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(tmp_path, name):
    path, whole = tmp_path / name, (DATA / name).read_bytes()
    for end in range(len(whole)):
        if end % 29 and 70 < end < len(whole) - 70:
            continue
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"download it again") as caught:
            open_torch(path)
        assert "TypeCheckError" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(tmp_path, name):
    path, whole = tmp_path / name, (DATA / name).read_bytes()
    draws = np.random.default_rng(0)
    messages = []
    for _ in range(90):
        damaged = bytearray(whole)
        for place in draws.integers(len(whole), size=3):
            damaged[place] = draws.integers(256)
        path.write_bytes(damaged)
        try:
            dict(open_torch(path))
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not any("\n" in message or "TypeCheckError" in message for message in messages)


class Explosive:
    """Unpickling it leaves a file behind, by REDUCE."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Built:
    """Unpickling it leaves a file behind, by BUILD."""

    def __init__(self, trace):
        self.trace = trace

    def __setstate__(self, state):
        Path(state["trace"]).touch()


def dumped(thing, protocol=2):
    """The opcodes of an object, without PROTO and STOP."""
    return pickle.dumps(thing, protocol)[0 if protocol < 2 else 2 : -1]


def attacks(trace):
    shell = f"touch {trace}"
    code = f"open({str(trace)!r}, 'w').close()"
    module = Explosive(__import__, "os")
    yield from (dumped(Explosive(os.system, shell), protocol) for protocol in (0, 1, 2))
    yield dumped(Explosive(eval, code))
    yield dumped(Explosive(exec, code))
    yield dumped(Explosive(getattr, module, "getcwd")) + b"0" + dumped(Explosive(eval, code))
    yield dumped(Explosive(Path.touch, trace))
    yield dumped(Built(str(trace)))
    yield b"(" + text(shell) + b"ios\nsystem\n"  # INST
    yield b"(cos\nsystem\n" + text(shell) + b"o"  # OBJ
    yield text("os") + text("system") + b"\x93" + text(shell) + b"\x85R"  # STACK_GLOBAL
    yield b"\x82\xf0" + text(shell) + b"\x85R"  # EXT1
    mapped = b"cbuiltins\nmap\n(cos\nsystem\n(" + text(shell) + b"ltR"
    yield b"cbuiltins\nlist\n" + mapped + b"\x85R"
    yield b"cfunctools\npartial\n(cos\nsystem\n" + text(shell) + b"tR)R"  # a call of a result


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)
    copyreg._extension_cache.pop(0xF0, None)


@WRITERS
def test_code_is_never_run(tmp_path, write, extension):
    trace = tmp_path / "trace"
    for attack in attacks(trace):
        pickle.loads(b"\x80\x02" + attack + b".")
        assert trace.exists(), attack  # so it is one
        trace.unlink()
        path = write(tmp_path / "a.pt", mapping(w=tensor(), x=attack))
        assert_same(open_torch(path), {"w": ramp(4)})
        path = write(tmp_path / "a.pt", mapping(w=tensor(), state_dict=mapping(x=attack)))
        assert_same(open_torch(path), {"w": ramp(4)})
        with pytest.raises(UserError):
            open_torch(write(tmp_path / "a.pt", attack))
        assert not trace.exists(), attack


@WRITERS
def test_functions_as_parts_of_a_tensor(tmp_path, write):
    trace = tmp_path / "trace"
    run = b"cos\nsystem\n"
    shell = text(f"touch {trace}")
    for attack in (
        b"ctorch._tensor\n_rebuild_from_type_v2\n("
        + run
        + b"ctorch\nTensor\n"
        + shell
        + b"\x85NtR",
        b"ctorch._utils\n_rebuild_parameter\n(" + run + shell + b"\x85R\x89}tR",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + run + shell + b"\x85R\x85R",
        run + tensor() + b"b",  # BUILD of a function
        tensor() + mapping(__class__=run) + b"b",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + mapping(__code__=run) + b"b",
        run + shell + b"\x85Q",  # as a persistent id
        shell + b"Q",
    ):
        path = write(tmp_path / "a.pt", mapping(w=tensor(), x=b"(" + attack + b"1N"))
        assert_same(open_torch(path), {"w": ramp(4)})
    assert not trace.exists()


@WRITERS
def test_nesting_without_end(tmp_path, write):
    depth = 20_000
    for attack in (
        b")" + b"\x85" * depth,
        b"]" * depth + b"a" * (depth - 1),
        b"}" + b")" + b"\x85" * depth + b"Ns",  # as a key, which C would hash by recursion
        b"(" * depth + b"1" * depth + b"N",
        b"]q\x07h\x07a",  # a list in itself
    ):
        path = write(tmp_path / "a.pt", mapping(w=tensor(), x=attack))
        assert_same(open_torch(path), {"w": ramp(4)})


@WRITERS
@pytest.mark.parametrize(
    "body",
    [
        b"R",
        b"0",
        b"t",
        b"h\x05",
        b"\x81",
        b"b",
        b"Q",
        b"(",
        b"\xff",
        b"u",
        b"K\x01K\x02s",
        b"I9\n0",
    ],
)
def test_stacks_that_do_not_add_up(tmp_path, write, body):
    with pytest.raises(UserError):
        open_torch(write(tmp_path / "a.pt", body))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    """What else is in a file does not matter, whatever opcodes it takes."""
    rest = {
        "numbers": [1, -1, 300, 70_000, 2**40, 2**3000, 1.5, True, None, ()],
        "text": ["a", "ü" * 300, b"b", b"b" * 300, bytearray(b"c")],
        "sets": [{1, 2}, frozenset({3}), {(1, 2): 3}, {1: 2}],
        "objects": [np.float32(1), np.arange(3), Path("a"), Built("b"), complex(1, 2)],
    }
    pickled = pickle.dumps(rest, protocol)
    # The old format begins with pickles of their own, so any protocol can be one of them.
    path = write_old(tmp_path / "a.pt", mapping(w=tensor()))
    system = pickle.dumps({"little_endian": True}, 2)
    assert path.read_bytes().count(system) == 1
    replaced = pickle.dumps({"little_endian": True, "rest": rest}, protocol)
    path.write_bytes(path.read_bytes().replace(system, replaced))
    assert len(pickled) < len(replaced)
    assert_same(open_torch(path), {"w": ramp(4)})


def test_against_torch(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        "w": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.nn.Parameter(torch.tensor([1.0, -2.5], dtype=torch.bfloat16)),
    }
    for zipped in (True, False):
        path = tmp_path / "a.pt"
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=zipped)
        found = open_torch(path)
        np.testing.assert_array_equal(found["w"], tensors["w"].numpy())
        np.testing.assert_array_equal(found["half"], np.array([1.0, -2.5], DTYPES["bfloat16"]))
