//! `capstan package …`

use std::path::{Path, PathBuf};

use capstan_core::order::hex;
use capstan_core::view::{PackageView, Page};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::context::{Context, note, print};
use super::error::Error;
use super::list::{PageArgs, items};
use super::moment;
use super::summary::field;
use super::table::{Fit, Table, clean};

/// Built packages: an archive for each version of an application; a version never changes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PackageCommand {
    /// Lists the packages of an application, newest first.
    ///
    /// Next: `deployment plan --group GROUP --package VERSION`.
    #[command(after_help = "Example:\n  capstan package list --application web")]
    List {
        #[command(flatten)]
        application: ApplicationArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows one package.
    ///
    /// Tells its digest, its size, where hosts fetch it, and who marked it as bad and why. Next:
    /// `deployment plan --group GROUP --package VERSION`.
    #[command(after_help = "Example:\n  capstan package show 1.1.0 --application web")]
    Show(PackageArgs),
    /// Registers a package that lies on a server of your own.
    ///
    /// Hosts download it from there; Capstan keeps no copy. Next: `deployment plan`.
    #[command(
        after_help = "Example:\n  capstan package register 1.1.0 --application web --sha256 $(sha256sum \
                            < web-1.1.0.tar.gz | cut -c 1-64) --location \
                            https://packages.example/web-1.1.0.tar.gz"
    )]
    Register {
        #[command(flatten)]
        package: PackageArgs,
        /// URL of the archive: http, https or file.
        #[arg(long, value_name = "URL")]
        location: String,
        /// SHA-256 of the archive, 64 hexadecimal digits.
        #[arg(long, value_name = "DIGEST")]
        sha256: String,
    },
    /// Uploads an archive (.tar.gz) into Capstan's own store.
    ///
    /// The digest is computed here and checked there. The same content again is accepted; another
    /// content for the same version is refused. Next: `deployment plan`.
    #[command(
        after_help = "Example:\n  capstan package upload web-1.1.0.tar.gz --application web --version \
                            1.1.0"
    )]
    Upload {
        /// The archive.
        file: PathBuf,
        #[command(flatten)]
        application: ApplicationArgs,
        /// Its version: 1 to 64 letters, digits and . _ + -
        #[arg(long, value_name = "VERSION")]
        version: String,
    },
    /// Marks a package as bad.
    ///
    /// New deployments refuse it and rollbacks pass it over; what runs already goes on. Next: `group
    /// rollback` where it runs.
    #[command(
        after_help = "Example:\n  capstan package mark-bad 1.1.0 --application web --reason \"loses \
                            sessions\""
    )]
    MarkBad {
        #[command(flatten)]
        package: PackageArgs,
        /// Why: everybody sees it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Takes the mark of a bad package away.
    ///
    /// It can be released again, and rollbacks may choose it.
    #[command(after_help = "Example:\n  capstan package mark-good 1.1.0 --application web")]
    MarkGood(PackageArgs),
    /// Downloads an archive from Capstan's own store.
    ///
    /// The file appears under its name once it is whole and its digest is right.
    #[command(
        after_help = "Example:\n  capstan package download 1.1.0 --application web --to web.tar.gz"
    )]
    Download {
        #[command(flatten)]
        package: PackageArgs,
        /// Where to [default: APPLICATION-VERSION.tar.gz].
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// Which application.
#[derive(Debug, clap::Args)]
pub(crate) struct ApplicationArgs {
    /// Name or id of the application.
    #[arg(long, value_name = "APPLICATION")]
    application: String,
}

/// Which package.
#[derive(Debug, clap::Args)]
pub(crate) struct PackageArgs {
    /// Its version.
    version: String,
    #[command(flatten)]
    application: ApplicationArgs,
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: PackageCommand) -> Result<(), Error> {
    let client = &context.client;
    let answer = match command {
        PackageCommand::List { application, page } => {
            let id = client.application(&application.application).await?.id.to_string();
            let path = ["applications", &id, "packages"];
            let answer = client.get(&path, &page.query()).await?;
            return context.show(&answer, |page| table(page, context.width));
        }
        PackageCommand::Show(package) => client.get(&package.path(), &[]).await?,
        PackageCommand::Register { package, location, sha256 } => {
            let body = json!({
                "application": package.application.application, "version": package.version,
                "location": location, "sha256": sha256.to_ascii_lowercase(),
            });
            client.post(&["packages"], Some(body)).await?
        }
        PackageCommand::Upload { file, application, version } => {
            let sha256 = digest(&file).await?;
            let path = ["packages", &application.application, &version];
            client.put_file(&path, &file, &sha256).await?
        }
        PackageCommand::MarkBad { package, reason } => {
            let body = json!({"bad": true, "reason": reason});
            client.patch(&package.path(), body).await?
        }
        PackageCommand::MarkGood(package) => {
            client.patch(&package.path(), json!({"bad": false})).await?
        }
        PackageCommand::Download { package, to } => return download(context, &package, to).await,
    };
    context.show(&answer, |view| text(&view))
}

impl PackageArgs {
    fn path(&self) -> [&str; 3] {
        ["packages", &self.application.application, &self.version]
    }
}

/// The digest of a file.
async fn digest(file: &Path) -> Result<String, Error> {
    let path = file.to_owned();
    let digest = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut hash = Sha256::new();
        let mut content = std::fs::File::open(path)?;
        let mut part = vec![0; 128 * 1024];
        loop {
            match std::io::Read::read(&mut content, &mut part)? {
                0 => return Ok(hex(&hash.finalize())),
                length => hash.update(&part[..length]),
            }
        }
    });
    let failed = Error::local(format!("cannot read {}", file.display()));
    digest.await.map_err(std::io::Error::other).and_then(|digest| digest).map_err(failed)
}

async fn download(
    context: &Context,
    package: &PackageArgs,
    to: Option<PathBuf>,
) -> Result<(), Error> {
    let view = context.client.get(&package.path(), &[]).await?;
    let expected = view.read::<PackageView>()?.sha256;
    let to = to.unwrap_or_else(|| {
        // What the command line names as an application may be any text.
        let name = package.application.application.replace('/', "_");
        PathBuf::from(format!("{name}-{}.tar.gz", package.version.replace('/', "_")))
    });
    let mut part = to.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let result = fetch(context, package, &part, &expected).await;
    if let Err(error) = result {
        // What is left over is of no use; that it cannot be removed is no further fault.
        drop(tokio::fs::remove_file(&part).await);
        return Err(error);
    }
    let failed = Error::local(format!("cannot write {}", to.display()));
    tokio::fs::rename(&part, &to).await.map_err(failed)?;
    note(&format!("{} is whole; its SHA-256 is right.", to.display()));
    if context.is_text() { Ok(()) } else { print(&format!("{}\n", view.text)) }
}

/// Writes the archive into a file, and checks its digest.
async fn fetch(
    context: &Context,
    package: &PackageArgs,
    to: &Path,
    expected: &str,
) -> Result<(), Error> {
    let failed = || Error::local(format!("cannot write {}", to.display()));
    let [packages, application, version] = package.path();
    let path = [packages, application, version, "archive"];
    let mut response = context.client.open(&path, &[], &[]).await?;
    let mut file = tokio::fs::File::create(to).await.map_err(failed())?;
    let mut hash = Sha256::new();
    let lost = |error| context.client.no_answer(error);
    while let Some(bytes) = response.chunk().await.map_err(lost)? {
        hash.update(&bytes);
        file.write_all(&bytes).await.map_err(failed())?;
    }
    file.sync_all().await.map_err(failed())?;
    let digest = hex(&hash.finalize());
    if digest == expected {
        return Ok(());
    }
    Err(Error::Strange(format!("the archive that came has SHA-256 {digest} and not {expected}")))
}

fn table(page: Page<PackageView>, width: Option<usize>) -> String {
    let heads = [("VERSION", Fit::Whole), ("REGISTERED", Fit::Cut), ("BYTES", Fit::Number)];
    let heads = [heads[0], heads[1], heads[2], ("SHA-256", Fit::Cut), ("BAD", Fit::Cut)];
    let mut table = Table::new(heads);
    for view in items(page) {
        table.row([
            view.version,
            moment::instant(view.created_at),
            view.size.map(|size| size.to_string()).unwrap_or_default(),
            view.sha256,
            view.bad.map(|bad| format!("{}: {}", bad.by, bad.reason)).unwrap_or_default(),
        ]);
    }
    table.render(width, "No packages. `package upload` brings one.")
}

fn text(view: &PackageView) -> String {
    let size = view.size.map_or_else(|| "unknown".to_owned(), |size| format!("{size} bytes"));
    let mut lines = vec![
        format!("package {}", view.version),
        field("id", &view.id.to_string()),
        field("sha256", &view.sha256),
        field("size", &size),
        field("registered", &moment::instant(view.created_at)),
    ];
    if view.stored {
        lines.push(field("stored", "in Capstan's own store"));
    }
    lines.extend(view.locations.iter().map(|location| field("location", &location.url)));
    if let Some(bad) = &view.bad {
        lines.push(field("bad", &format!("by {}: {}", bad.by, bad.reason)));
    }
    lines.iter().map(|line| clean(line) + "\n").collect()
}
