//! Runs a scenario: its rounds one after the other, and then its thresholds.

use std::path::Path;

use load_tests::{Figures, Round, Scenario, Verdict, run};

use super::{Place, say};

/// `true` if every threshold holds.
pub(crate) async fn scenario(place: &Place, file: &Path) -> anyhow::Result<bool> {
    let Scenario { about, rounds, thresholds, tenants } = Scenario::read(file)?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    say(&format!("\n{name}: {about}\n(times are median/p99; gaps are between chunks of text)"));
    let (client, serve) = place.open(&tenants).await?;
    let mut measured = Vec::new();
    for (at, phases) in rounds.into_iter().enumerate() {
        let mut round = Round::new();
        for phase in phases {
            let name = phase.name.clone();
            let loads = run(&client, phase).await?;
            Figures::note(&mut round, &name, &loads);
            say(&format!("round {}  {name:<10} {}", at + 1, round[&name]));
            for load in loads.iter().filter(|_| loads.len() > 1) {
                let figures = &round[&format!("{name}.{}", load.load)];
                say(&format!("           {:<8} {figures}", load.load));
            }
        }
        measured.push(round);
    }
    if let Some(serve) = serve {
        serve.end().await?;
    }
    let verdicts: Vec<Verdict> =
        thresholds.iter().map(|threshold| threshold.judge(&measured)).collect();
    for verdict in &verdicts {
        say(&verdict.to_string());
    }
    Ok(verdicts.iter().all(Verdict::passed))
}
