use std::fmt;

use super::{Contender, Run, Scenario, run};
use crate::AlgorithmKind;

/// The limits an oracle tries.
const SWEEP: [u32; 23] = [
    2, 3, 4, 6, 8, 11, 14, 16, 18, 20, 22, 24, 28, 32, 40, 52, 64, 84, 110, 150, 250, 320, 1000,
];

/// The goodput of a run in each judged interval, as a fraction of what the best fixed limit reaches
/// in that interval.
#[must_use]
pub fn score(scenario: &Scenario, oracle: &[f64], run: &Run) -> Vec<f64> {
    let judged = scenario.judged();
    judged
        .iter()
        .zip(oracle)
        .map(|((a, b), best)| run.goodput(*a, *b) / best.max(1e-9))
        .collect()
}

/// Contenders by scenarios.
#[derive(Debug, Clone)]
pub struct Table {
    /// The names of the contenders.
    pub contenders: Vec<String>,
    /// For each scenario its name, the goodput of the oracle in each interval, and for each
    /// contender the worst score over all intervals and seeds, the median score and the highest
    /// 99th percentile in seconds.
    pub rows: Vec<Row>,
}

/// One scenario of a [`Table`].
#[derive(Debug, Clone)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// Answers in time per second of the best fixed limit, in each interval.
    pub oracle: Vec<f64>,
    /// For each contender.
    pub cells: Vec<Cell>,
}

/// One contender in one scenario.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// The worst score of all intervals and seeds.
    pub worst: f64,
    /// The median score.
    pub median: f64,
    /// The highest 99th percentile of the latency in an interval, in seconds.
    pub p99: f64,
}

impl Table {
    /// Runs every contender in every scenario with every seed, and the oracle with every seed.
    #[must_use]
    pub fn build(
        scenarios: &[Scenario],
        contenders: &[(String, Contender)],
        seeds: &[u64],
    ) -> Self {
        let rows = scenarios
            .iter()
            .map(|scenario| Row::build(scenario, contenders, seeds));
        Self {
            contenders: contenders.iter().map(|(name, _)| name.clone()).collect(),
            rows: rows.collect(),
        }
    }

    /// Puts the contenders of another table of the same scenarios among these, from that column on.
    pub fn insert(&mut self, at: usize, other: Self) {
        let at = at.min(self.contenders.len());
        self.contenders.splice(at..at, other.contenders);
        for (row, other) in self.rows.iter_mut().zip(other.rows) {
            row.cells.splice(at..at, other.cells);
        }
    }
}

/// The goodput of the best fixed limit in each judged interval.
#[must_use]
pub fn oracle(scenario: &Scenario, seed: u64) -> Vec<f64> {
    let judged = scenario.judged();
    let mut best = vec![0.0_f64; judged.len()];
    for limit in SWEEP {
        let run = run(
            scenario,
            &Contender::Kind(AlgorithmKind::Fixed, limit),
            seed,
        );
        for (best, (a, b)) in best.iter_mut().zip(&judged) {
            *best = best.max(run.goodput(*a, *b));
        }
    }
    best
}

impl Row {
    fn build(scenario: &Scenario, contenders: &[(String, Contender)], seeds: &[u64]) -> Self {
        let oracles: Vec<_> = seeds.iter().map(|seed| oracle(scenario, *seed)).collect();
        let cells = contenders.iter().map(|(_, contender)| {
            let mut scores = Vec::new();
            let mut p99 = 0.0_f64;
            for (seed, oracle) in seeds.iter().zip(&oracles) {
                let run = run(scenario, contender, *seed);
                scores.extend(score(scenario, oracle, &run));
                for (a, b) in scenario.judged() {
                    p99 = p99.max(run.latency(0.99, a, b));
                }
            }
            scores.sort_by(f64::total_cmp);
            Cell {
                worst: scores.first().copied().unwrap_or(0.0),
                median: scores.get(scores.len() / 2).copied().unwrap_or(0.0),
                p99,
            }
        });
        Self {
            scenario: scenario.name,
            oracle: oracles[0].clone(),
            cells: cells.collect(),
        }
    }
}

impl fmt::Display for Table {
    /// As Markdown: worst / median score in per cent, and the highest p99.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| scenario | oracle/s | {} |",
            self.contenders.join(" | ")
        )?;
        writeln!(f, "|---|---|{}", "---|".repeat(self.contenders.len()))?;
        for row in &self.rows {
            let oracle: Vec<_> = row.oracle.iter().map(|best| format!("{best:.0}")).collect();
            write!(f, "| {} | {} |", row.scenario, oracle.join(", "))?;
            for cell in &row.cells {
                let (worst, median) = (100.0 * cell.worst, 100.0 * cell.median);
                write!(
                    f,
                    " {worst:.0} / {median:.0}, {:.0} ms |",
                    1000.0 * cell.p99
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
