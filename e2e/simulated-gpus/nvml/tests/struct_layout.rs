//! Compares the C types with NVIDIA's published header, as a C compiler sees it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[allow(dead_code, reason = "only layouts are compared")]
#[path = "../src/abi.rs"]
mod abi;

use std::{
    fmt::Write as _,
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    process::Command,
};

/// `(C expression, our value)` of a struct: its size, its alignment, the offset of each field.
macro_rules! layout {
    ($table:ident, $ours:ty, $theirs:literal, $($field:ident => $their_field:literal),* $(,)?) => {
        $table.push((format!("sizeof({})", $theirs), size_of::<$ours>()));
        $table.push((format!("_Alignof({})", $theirs), align_of::<$ours>()));
        $($table.push((format!("offsetof({}, {})", $theirs, $their_field), offset_of!($ours, $field)));)*
    };
}

#[rustfmt::skip]
fn our_layout() -> Vec<(String, usize)> {
    let mut table = Vec::new();
    layout!(table, abi::PciInfo, "nvmlPciInfo_t",
        bus_id_legacy => "busIdLegacy", domain => "domain", bus => "bus", device => "device",
        pci_device_id => "pciDeviceId", pci_subsystem_id => "pciSubSystemId", bus_id => "busId");
    layout!(table, abi::Memory, "nvmlMemory_t", total => "total", free => "free", used => "used");
    layout!(table, abi::MemoryV2, "nvmlMemory_v2_t",
        version => "version", total => "total", reserved => "reserved", free => "free", used => "used");
    layout!(table, abi::Bar1Memory, "nvmlBAR1Memory_t",
        total => "bar1Total", free => "bar1Free", used => "bar1Used");
    layout!(table, abi::Utilization, "nvmlUtilization_t", gpu => "gpu", memory => "memory");
    layout!(table, abi::ProcessInfoV1, "nvmlProcessInfo_v1_t", pid => "pid", used_gpu_memory => "usedGpuMemory");
    layout!(table, abi::ProcessInfo, "nvmlProcessInfo_t",
        pid => "pid", used_gpu_memory => "usedGpuMemory",
        gpu_instance_id => "gpuInstanceId", compute_instance_id => "computeInstanceId");
    layout!(table, abi::ProcessUtilizationSample, "nvmlProcessUtilizationSample_t",
        pid => "pid", time_stamp => "timeStamp", sm_util => "smUtil", mem_util => "memUtil",
        enc_util => "encUtil", dec_util => "decUtil");
    layout!(table, abi::AccountingStats, "nvmlAccountingStats_t",
        gpu_utilization => "gpuUtilization", memory_utilization => "memoryUtilization",
        max_memory_usage => "maxMemoryUsage", time => "time", start_time => "startTime",
        is_running => "isRunning", reserved => "reserved");
    layout!(table, abi::DeviceAttributes, "nvmlDeviceAttributes_t",
        multiprocessor_count => "multiprocessorCount", shared_copy_engine_count => "sharedCopyEngineCount",
        shared_decoder_count => "sharedDecoderCount", shared_encoder_count => "sharedEncoderCount",
        shared_jpeg_count => "sharedJpegCount", shared_ofa_count => "sharedOfaCount",
        gpu_instance_slice_count => "gpuInstanceSliceCount",
        compute_instance_slice_count => "computeInstanceSliceCount", memory_size_mb => "memorySizeMB");
    layout!(table, abi::EventData, "nvmlEventData_t",
        device => "device", event_type => "eventType", data => "eventData",
        gpu_instance_id => "gpuInstanceId", compute_instance_id => "computeInstanceId");
    layout!(table, abi::Value, "nvmlValue_t",
        d_val => "dVal", si_val => "siVal", ui_val => "uiVal", ull_val => "ullVal", sll_val => "sllVal");
    layout!(table, abi::FieldValue, "nvmlFieldValue_t",
        field_id => "fieldId", scope_id => "scopeId", timestamp => "timestamp", latency_usec => "latencyUsec",
        value_type => "valueType", nvml_return => "nvmlReturn", value => "value");
    table.push(("nvmlMemory_v2".into(), abi::MEMORY_V2_VERSION as usize));
    table.push(("nvmlEventTypeXidCriticalError".into(), usize::try_from(abi::EVENT_XID).unwrap()));
    table
}

/// The published header; fetched where it is not there yet.
fn header() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fetch-nvml-header.sh");
    let output = Command::new("bash").arg(script).output().unwrap();
    assert!(
        output.status.success(),
        "cannot fetch nvml.h: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// What a C program prints that includes the header.
fn run_c(statements: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(header(), folder.path().join("nvml.h")).unwrap();
    let source = folder.path().join("main.c");
    let program = folder.path().join("main");
    fs::write(
        &source,
        format!("#include <stddef.h>\n#include <stdio.h>\n#include \"nvml.h\"\nint main(void) {{\n{statements}return 0;\n}}\n"),
    )
    .unwrap();
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-Wno-deprecated-declarations", "-o"])
        .args([&program, &source])
        .output()
        .expect("gcc is missing: install it (apt-get install gcc libc6-dev)");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
}

#[test]
fn every_struct_is_laid_out_as_in_the_published_header() {
    let ours = our_layout();
    let mut statements = String::new();
    for (expression, _) in &ours {
        writeln!(statements, "printf(\"%zu\\n\", (size_t)({expression}));").unwrap();
    }
    let printed = run_c(&statements);
    let theirs: Vec<usize> = printed.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), ours.len());
    for ((expression, ours), theirs) in ours.iter().zip(theirs) {
        assert_eq!(*ours, theirs, "{expression}");
    }
}

#[test]
fn every_return_code_has_the_headers_number() {
    use gridstake_simulated_gpus::state::ReturnCode;
    let mut statements = String::new();
    for (_, name, _) in ReturnCode::ALL {
        let name = if *name == "SUCCESS" {
            "NVML_SUCCESS".to_owned()
        } else {
            format!("NVML_ERROR_{name}")
        };
        writeln!(statements, "printf(\"%d\\n\", {name});").unwrap();
    }
    let numbers: Vec<u32> = run_c(&statements)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let ours: Vec<u32> = ReturnCode::ALL.iter().map(|(code, ..)| code.0).collect();
    assert_eq!(ours, numbers);
}

/// Symbols of a library that begin with `nvml`.
fn exported(library: &Path) -> Vec<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "--format=just-symbols"])
        .arg(library)
        .output()
        .expect("nm is missing: install it (apt-get install binutils)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_exported_symbol_is_a_function_of_the_header() {
    let header = fs::read_to_string(header()).unwrap();
    let built = gridstake_simulated_gpus::double::build().unwrap();
    for symbol in exported(&built.current) {
        assert!(
            header.contains(&format!("{symbol}(")),
            "{symbol} is not in nvml.h"
        );
    }
}

#[test]
fn the_old_driver_lacks_what_newer_drivers_brought_and_nothing_else() {
    let built = gridstake_simulated_gpus::double::build().unwrap();
    let (current, old) = (exported(&built.current), exported(&built.old_driver));
    let missing: Vec<_> = current
        .iter()
        .filter(|symbol| !old.contains(symbol))
        .collect();
    assert!(old.iter().all(|symbol| current.contains(symbol)));
    assert_eq!(
        missing,
        [
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetGraphicsRunningProcesses_v3",
            "nvmlDeviceGetMPSComputeRunningProcesses_v3",
            "nvmlDeviceGetMemoryBusWidth",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetNumGpuCores",
            "nvmlDeviceGetNumaNodeId",
            "nvmlDeviceGetNvLinkRemoteDeviceType",
            "nvmlDeviceGetSupportedClocksEventReasons",
        ]
    );
}

#[test]
fn the_loader_knows_both_libraries_by_nvmls_name() {
    let built = gridstake_simulated_gpus::double::build().unwrap();
    for library in [&built.current, &built.old_driver] {
        let output = Command::new("objdump")
            .arg("-p")
            .arg(library)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let soname = text
            .lines()
            .find(|line| line.contains("SONAME"))
            .unwrap_or_default();
        assert!(
            soname.ends_with("libnvidia-ml.so.1"),
            "{}: {soname}",
            library.display()
        );
    }
}
