//! The three packages of the demo, built anew at each start with the same bytes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::app::AppConfig;

/// A package as a file.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) version: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
}

const VERSIONS: [(&str, Option<u64>); 3] = [("1.0.0", None), ("1.1.0", None), ("1.2.0", Some(2))];

/// The hook that starts an instance: it ends the process of the release before and starts the new
/// one in a session of its own.
const RESTART: &str = include_str!("restart.sh");

/// Writes the archives below `data`.
pub(crate) fn build(data: &Path) -> anyhow::Result<Vec<Package>> {
    let folder = data.join("dist");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let program = super::fleet::program_link(data);
    VERSIONS
        .into_iter()
        .map(|(version, fails_after_seconds)| {
            let config = AppConfig { version: version.to_owned(), fails_after_seconds };
            let bytes = archive(&config, &program)?;
            let path = folder.join(format!("web-{version}.tar.gz"));
            std::fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
            let digest = Sha256::digest(&bytes);
            Ok(Package { version, path, sha256: capstan_core::order::hex(&digest) })
        })
        .collect()
}

fn archive(config: &AppConfig, program: &Path) -> anyhow::Result<Vec<u8>> {
    let app = toml::to_string(config).context("writing app.toml")?;
    let restart = RESTART.replace("@PROGRAM@", &program.display().to_string());
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, mode, text) in [("app.toml", 0o644, &app), ("capstan/restart", 0o755, &restart)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        tar.append_data(&mut header, name, text.as_bytes()).context("building an archive")?;
    }
    let mut gzip = tar.into_inner().context("building an archive")?;
    gzip.flush().context("building an archive")?;
    gzip.finish().context("building an archive")
}
