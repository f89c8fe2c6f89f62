//! How often a server asks its allocator, for each request.

use std::{fs, sync::Arc, thread::sleep, time::Duration};

use serde::Serialize;

use super::{Figures, Plan, Section, requests};
use crate::{
    BoxError,
    allocator::{COUNT_TO, EVERY},
    contestants::{Contestant, Scope, home},
    load::{Exchange, Generator, Load},
};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct AllocationRow {
    pub peer: String,
    pub hello: Option<f64>,
    pub json: Option<f64>,
}

pub(super) fn run(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let rows = plan.taking(Scope::Hello).into_iter().map(|contestant| {
        let each = |exchanges| measure(plan, contestant, exchanges).ok();
        AllocationRow {
            peer: contestant.name.clone(),
            hello: each(requests::hello()),
            json: match contestant.scope {
                Scope::All => each(requests::json()),
                _ => None,
            },
        }
    });
    Ok(Section {
        name,
        title: "Allocations for each request".to_owned(),
        what: "Counted in the allocator (in Go, by its runtime) on 16 connections that are open and warm."
            .to_owned(),
        figures: Figures::Allocations(rows.collect()),
    })
}

fn measure(
    plan: &Plan,
    contestant: &Contestant,
    exchanges: Arc<[Exchange]>,
) -> Result<f64, BoxError> {
    let path = home().join("target/compare/allocations");
    let mut environment = plan.environment.clone();
    environment.push((COUNT_TO.to_owned(), path.to_string_lossy().into_owned()));
    let server = contestant.start(&plan.cores, &environment)?;
    let mut generator = Generator::connect(server.address, Load::closed(16, exchanges))?;
    generator.run(Duration::from_millis(200))?;
    let count = || -> Result<u64, BoxError> {
        sleep(EVERY * 3);
        Ok(u64::from_le_bytes(fs::read(&path)?.as_slice().try_into()?))
    };
    let before = count()?;
    let answers = generator.run(Duration::from_millis(300))?;
    let after = count()?;
    Ok((after - before) as f64 / answers.good as f64)
}
