//! The command line.
fn main() -> anyhow::Result<()> {
    let path = std::path::PathBuf::from(std::env::args().nth(2).unwrap_or_default());
    let config = seatkeeper::config::load(&path)?;
    seatkeeper::daemon::run(&path, config)
}
