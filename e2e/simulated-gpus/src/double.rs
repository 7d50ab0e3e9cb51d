//! Builds the NVML double, for tests that load it.
//!
//! `cargo test` builds no cdylib of another package, so a test asks for it: this runs `cargo build` for the two
//! packages, into the target directory and with the profile that the running test was built with, and takes the files'
//! names from cargo's own messages. Cargo holds no lock while tests run, so this neither deadlocks nor builds twice.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use gridstake_simulated_gpus_state::LIBRARY_FILE;

/// Where the built libraries are.
#[derive(Debug, Clone)]
pub struct Doubles {
    /// The double of a current driver.
    pub current: PathBuf,
    /// The double of a driver that lacks newer calls.
    pub old_driver: PathBuf,
    /// The double of the driver itself.
    pub cuda: PathBuf,
}

/// Environment variables that name libraries that are built already.
const CURRENT_ENV: &str = "GRIDSTAKE_NVML_DOUBLE";
const OLD_DRIVER_ENV: &str = "GRIDSTAKE_NVML_DOUBLE_OLD_DRIVER";
const CUDA_ENV: &str = "GRIDSTAKE_CUDA_DOUBLE";
const CURRENT_PACKAGE: &str = "gridstake-nvml-double";
const OLD_DRIVER_PACKAGE: &str = "gridstake-nvml-double-old-driver";
const CUDA_PACKAGE: &str = "gridstake-cuda-double";

/// Why there is no double.
#[derive(Debug, Clone, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DoubleError {
    #[error("cannot find the target directory from {executable}")]
    TargetDirectory { executable: PathBuf },
    #[error("cannot run cargo: {0}")]
    Cargo(String),
    #[error("cargo cannot build the doubles:\n{0}")]
    Build(String),
    #[error("cargo built no library of {0}")]
    NoArtifact(&'static str),
}

/// Builds the doubles, once per process.
pub fn build() -> Result<Doubles, DoubleError> {
    static BUILT: OnceLock<Result<Doubles, DoubleError>> = OnceLock::new();
    BUILT.get_or_init(build_now).clone()
}

fn build_now() -> Result<Doubles, DoubleError> {
    if let (Some(current), Some(old_driver), Some(cuda)) = (
        env::var_os(CURRENT_ENV),
        env::var_os(OLD_DRIVER_ENV),
        env::var_os(CUDA_ENV),
    ) {
        return Ok(Doubles {
            current: current.into(),
            old_driver: old_driver.into(),
            cuda: cuda.into(),
        });
    }
    let executable = env::current_exe().map_err(|error| DoubleError::Cargo(error.to_string()))?;
    let (target, profile) =
        target_and_profile(&executable).ok_or_else(|| DoubleError::TargetDirectory {
            executable: executable.clone(),
        })?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .args([
            "-p",
            CURRENT_PACKAGE,
            "-p",
            OLD_DRIVER_PACKAGE,
            "-p",
            CUDA_PACKAGE,
        ])
        .args(["--profile", profile, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .map_err(|error| DoubleError::Cargo(error.to_string()))?;
    if !output.status.success() {
        return Err(DoubleError::Build(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(Doubles {
        current: artifact(&messages, CURRENT_PACKAGE)?,
        old_driver: artifact(&messages, OLD_DRIVER_PACKAGE)?,
        cuda: artifact(&messages, CUDA_PACKAGE)?,
    })
}

/// `<target>/<profile>/deps/<test>`, or `<target>/<profile>/<program>`. The profile `dev` is built into `debug`.
fn target_and_profile(executable: &Path) -> Option<(&Path, &str)> {
    let folder = executable.parent()?;
    let folder = if folder.ends_with("deps") {
        folder.parent()?
    } else {
        folder
    };
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        other => other,
    };
    Some((folder.parent()?, profile))
}

fn artifact(messages: &str, package: &'static str) -> Result<PathBuf, DoubleError> {
    let library = package.replace('-', "_");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact"
                && message["target"]["name"] == library.as_str()
        })
        .filter_map(|message| {
            let files = message["filenames"].as_array()?.clone();
            files.iter().find_map(|file| {
                Some(PathBuf::from(file.as_str()?))
                    .filter(|path| path.extension().is_some_and(|extension| extension == "so"))
            })
        })
        .next_back()
        .ok_or(DoubleError::NoArtifact(package))
}

/// Copies a double to `<state directory>/lib/libnvidia-ml.so.1`, where it finds its state by itself, and answers that
/// path. A copy of its own also keeps two tests of one process apart: each loads another library.
pub fn install(double: &Path, state_directory: &Path) -> io::Result<PathBuf> {
    let folder = state_directory.join(gridstake_simulated_gpus_state::LIBRARY_DIRECTORY);
    fs::create_dir_all(&folder)?;
    let library = folder.join(LIBRARY_FILE);
    fs::copy(double, &library)?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_follows_from_where_the_test_lies() {
        for (executable, expected) in [
            ("/w/target/debug/deps/x-1", ("/w/target", "dev")),
            ("/w/target/release/deps/x-1", ("/w/target", "release")),
            ("/w/target/debug/x", ("/w/target", "dev")),
        ] {
            let (target, profile) = target_and_profile(Path::new(executable)).unwrap();
            assert_eq!((target.to_str().unwrap(), profile), expected);
        }
    }
}
