"""Which targets and compiler options are taken, and what is said of the others."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional, Tuple

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.target import NEAREST, from_api, parse

GPU = "os=LINUX,arch=X86_64,accelerator=NVIDIA"
CPU = "os=LINUX,arch=X86_64"
XAVIER = {"gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4"}


def refusal(device: Optional[str], platform: Optional[str], options: Optional[str] = None) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        parse(device, platform, options)
    return str(caught.value)


def options_of(device: Optional[str], platform: Optional[str], text: Optional[str] = None) -> Any:
    return json.loads(parse(device, platform, text).to_api()["CompilerOptions"])


def test_a_device_is_named_as_the_api_names_it() -> None:
    target = parse("jetson_xavier", None, json.dumps(XAVIER))

    assert target.architecture == "aarch64"
    assert target.to_api() == {
        "TargetDevice": "jetson_xavier",
        "CompilerOptions": json.dumps(XAVIER, sort_keys=True),
    }


def test_a_device_without_options_has_those_of_its_last_jetpack() -> None:
    assert options_of("jetson_xavier", None) == XAVIER


@pytest.mark.parametrize(
    ("text", "platform", "architecture"),
    [
        (CPU, {"Os": "LINUX", "Arch": "X86_64"}, "amd64"),
        ("Arch=ARM64,Os=LINUX", {"Os": "LINUX", "Arch": "ARM64"}, "aarch64"),
    ],
)
def test_a_platform_is_named_as_the_api_names_it(
    text: str, platform: Dict[str, str], architecture: str
) -> None:
    target = parse(None, text, None)

    assert target.to_api()["TargetPlatform"] == platform
    assert target.architecture == architecture


def test_a_platform_may_have_an_accelerator() -> None:
    platform = parse(None, GPU, json.dumps(XAVIER)).to_api()["TargetPlatform"]

    assert platform == {"Os": "LINUX", "Arch": "X86_64", "Accelerator": "NVIDIA"}


def test_neither_both_targets_nor_none_will_do() -> None:
    assert refusal("jetson_xavier", CPU).startswith("Two targets are named; name one")
    assert refusal(None, None).startswith("No target is named; name one")


def test_an_unknown_device_is_named_back() -> None:
    assert "jetson_nano isn't known; known: jetson_xavier" in refusal("jetson_nano", None)


@pytest.mark.parametrize(
    ("platform", "sentence"),
    [
        ("os=LINUX", "Arch: field required"),
        ("os=WINDOWS,arch=X86_64", "it is 'WINDOWS'"),
        ("os=LINUX,arch=x86", "it is 'x86'"),
        ("os=LINUX,arch=ARM64,accelerator=AMD", "it is 'AMD'"),
        ("os=LINUX,arch=ARM64,cores=4", "Cores: unknown key; known here: Accelerator, Arch, Os"),
        ("os=LINUX,arch=ARM64,arch=X86_64", "each of os, arch and accelerator once"),
        ("LINUX,ARM64", "each of os, arch and accelerator once"),
    ],
)
def test_a_wrong_platform_is_refused_with_its_reason(platform: str, sentence: str) -> None:
    assert sentence in refusal(None, platform)


def test_a_gpu_needs_all_its_options() -> None:
    assert "gpu-code: field required; trt-ver: field required" in refusal(None, GPU)
    for name in XAVIER:
        rest = {key: value for key, value in XAVIER.items() if key != name}
        assert f"{name}: field required" in refusal(None, GPU, json.dumps(rest))


@pytest.mark.parametrize(
    ("name", "value"),
    [("gpu-code", "72"), ("gpu-code", 72), ("trt-ver", "8.5"), ("cuda-ver", "11.4.1")],
)
def test_a_gpu_option_has_its_form(name: str, value: object) -> None:
    assert f"{name}: " in refusal("jetson_xavier", None, json.dumps({**XAVIER, name: value}))


def test_an_unknown_option_is_named_back_with_those_of_the_target() -> None:
    assert (
        refusal(None, CPU, '{"gpu-code": "sm_72"}')
        == "--compiler-options: unknown option 'gpu-code'; CPU targets have mcpu, mattr."
    )
    assert "unknown option 'mcpu'; NVIDIA targets have gpu-code, trt-ver, cuda-ver" in refusal(
        "jetson_xavier", None, '{"mcpu": "x"}'
    )


@pytest.mark.parametrize("text", ["", "{}", " " * 1025])
def test_options_have_3_to_1024_characters(text: str) -> None:
    assert f"has {len(text)} characters" in refusal(None, CPU, text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mcpu", "isn't JSON"),
        ("[1]", "should be an object"),
        ('{"mattr": "+neon"}', "mattr"),
        ('{"mattr": ["neon"]}', "mattr.0"),
        ('{"mcpu": "a b"}', "mcpu"),
    ],
)
def test_options_that_are_no_options_are_refused(text: str, sentence: str) -> None:
    assert sentence in refusal(None, CPU, text)


def test_a_cpu_has_a_default_only_where_it_fits() -> None:
    assert options_of(None, CPU) == {"mcpu": "core-avx2"}
    assert "CompilerOptions" not in parse(None, "os=LINUX,arch=ARM64", None).to_api()
    assert options_of(None, CPU, '{"mcpu": "skylake-avx512"}') == {"mcpu": "skylake-avx512"}
    neon = {"mattr": ["+neon", "+vfpv4"]}
    assert options_of(None, "os=LINUX,arch=ARM64", json.dumps(neon)) == neon
    assert options_of(None, CPU, json.dumps(neon)) == {"mcpu": "core-avx2", **neon}


@pytest.mark.parametrize("version", ["7.1.3", "8.2.1", "8.4.9"])
def test_an_old_tensorrt_is_refused_with_the_nearest_jetpack(version: str) -> None:
    sentence = refusal("jetson_xavier", None, json.dumps({**XAVIER, "trt-ver": version}))

    assert f"trt-ver {version} is too old" in sentence
    assert "JetPack is 5.1" in sentence


@pytest.mark.parametrize("version", ["8.5.0", "8.6.1", "10.3.0"])
def test_a_newer_tensorrt_is_taken(version: str) -> None:
    assert options_of(None, GPU, json.dumps({**XAVIER, "trt-ver": version}))["trt-ver"] == version


# the API's documents


def of_api(arch: str, accelerator: Optional[str], options: Optional[str]) -> Any:
    """The options of a platform as a component's manifest has them, and the remark."""
    platform = {"Os": "LINUX", "Arch": arch, "Accelerator": accelerator}
    named = {"TargetPlatform": platform, "CompilerOptions": options}
    target = from_api({name: value for name, value in named.items() if value is not None})
    return target.to_spec(), target.remark


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize(
    ("arch", "code", "trt_ver", "cuda_ver"),
    [
        ("ARM64", "sm_72", "5.1.6", "10.0"),
        ("ARM64", "sm_72", "7.1.3", "10.2"),
        ("ARM64", "sm_72", "8.2.1", "10.2"),
        ("X86_64", "sm_75", "7.1.3", "10.2"),
        ("X86_64", "sm_80", "8.2.0", "11.2"),
    ],
)
def test_the_documented_options_are_taken_and_the_nearest_tensorrt_is_meant(
    arch: str, code: str, trt_ver: str, cuda_ver: str, quote: str
) -> None:
    text = f"{{'gpu-code': '{code}', 'trt-ver': '{trt_ver}', 'cuda-ver': '{cuda_ver}'}}"
    spec, remark = of_api(arch, "NVIDIA", text.replace("'", quote))

    assert (spec.gpu_code, spec.trt_ver, spec.cuda_ver) == (code, *NEAREST.values())
    assert remark.startswith("The component is made for TensorRT 8.5.2 with CUDA 11.4: ")
    assert f"TensorRT {trt_ver} takes no uint8 images" in remark


def test_options_that_the_agent_serves_are_meant_as_they_are() -> None:
    options = "{'gpu-code': 'sm_87', 'trt-ver': '8.6.2', 'cuda-ver': '12.2'}"
    spec, remark = of_api("ARM64", "NVIDIA", options)

    assert (spec.gpu_code, spec.trt_ver, spec.cuda_ver, remark) == ("sm_87", "8.6.2", "12.2", "")


@pytest.mark.parametrize(
    ("arch", "options", "mcpu", "mattr"),
    [
        ("X86_64", None, "core-avx2", ()),
        ("X86_64", '{"mcpu": "core-avx2"}', "core-avx2", ()),
        ("X86_64", "{'mcpu': 'skylake-avx512'}", "skylake-avx512", ()),
        ("ARM64", "{'mattr': ['+neon', '+vfpv4']}", None, ("+neon", "+vfpv4")),
        ("ARM64", None, None, ()),
    ],
)
def test_the_documented_options_of_cpus_are_taken(
    arch: str, options: Optional[str], mcpu: Optional[str], mattr: Tuple[str, ...]
) -> None:
    spec, remark = of_api(arch, None, options)

    assert (spec.mcpu, spec.mattr, remark) == (mcpu, mattr, "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{'mcpu': 'it\"s'}", "CompilerOptions isn't JSON"),
        ("{'mcpu': 'a', 'mcpu': 'b'}", "appears twice"),
        ("{'gpu-code': 'sm_72'}", "unknown option 'gpu-code'; CPU targets have mcpu, mattr"),
        ("'mcpu'", "should be an object"),
    ],
)
def test_wrong_options_in_single_quotes_are_refused(text: str, sentence: str) -> None:
    platform = {"Os": "LINUX", "Arch": "X86_64"}
    with pytest.raises(InvalidConfiguration, match=sentence):
        from_api({"TargetPlatform": platform, "CompilerOptions": text})
