import os

from lathe.serving.loadtest.memory import process_tree, read_metrics, resident_bytes

PAGE = """# HELP process_resident_memory_bytes Resident memory size in bytes.
process_resident_memory_bytes 1.5e+06
lathe_model_weight_bytes{model="m"} 4096
lathe_model_weight_bytes_total 7
lathe_gpu_memory_used_bytes{device="0",scope="device"} 900
lathe_gpu_memory_used_bytes{device="0",scope="process"} 500
lathe_gpu_memory_used_bytes{device="1",scope="process"} 100
"""


def test_the_metrics_page_is_read() -> None:
    assert read_metrics(PAGE).as_json() == {
        "peak_rss_bytes": 1_500_000,
        "model_weight_bytes": 4096,
        "gpu_memory_used_bytes": 600,
    }


def test_what_a_page_lacks_is_absent() -> None:
    assert read_metrics("lathe_gpu_memory_used_bytes 5\nlathe_model_weight_bytes NaN\n").as_json() == {
        "gpu_memory_used_bytes": 5
    }


def test_resident_memory_of_a_process_tree() -> None:
    found = resident_bytes(process_tree(os.getpid()))
    assert found is not None
    assert found > 1_000_000
    assert resident_bytes([]) is None
