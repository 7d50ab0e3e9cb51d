//! Generates the PodResources client from the vendored `.proto` file, without a `protoc` binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/podresources_v1.proto");
    let descriptors = protox::compile(["podresources_v1.proto"], ["proto"])?;
    // The server half is what the tests' kubelet is made of.
    tonic_prost_build::configure()
        .build_server(true)
        .compile_fds(descriptors)?;
    Ok(())
}
