//! What a run says: JSON with every turn, Markdown to read, a chart, and the table of `FIGURES.md`.

mod agree;
mod chart;
mod figures;
mod markdown;

use std::{fs, path::Path};

pub(crate) use agree::agree;
pub(crate) use figures::put_into_figures;

use serde::Serialize;

use crate::{
    BoxError, contestants::Contestant, machine::Machine, measure::Rounds, server::Cores,
    workloads::Section,
};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub form: String,
    pub command: String,
    pub seconds: f64,
    pub rounds: Rounds,
    pub workers: usize,
    pub cores: Cores,
    pub machine: Machine,
    pub contestants: Vec<Contestant>,
    pub sections: Vec<Section>,
}

impl Report {
    pub(crate) fn write(&self, folder: &Path) -> Result<(), BoxError> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("report.md"), markdown::report(self)?)?;
        fs::write(folder.join("table.md"), figures::table(self)?)?;
        fs::write(folder.join("chart.svg"), chart::draw(self)?)?;
        Ok(())
    }
}
