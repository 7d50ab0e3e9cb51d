//! Generates the kubelet's two gRPC APIs from the vendored definitions. No `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let definitions = ["deviceplugin-v1beta1.proto", "podresources-v1.proto"];
    for definition in definitions {
        println!("cargo:rerun-if-changed=proto/{definition}");
        // Both define `TopologyInfo` and others, each in its own package: one descriptor set per file.
        let descriptors = protox::compile([definition], ["proto"])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
