//! Story 40: who may do what, cell by cell. `charts/gridstake/tests/access.csv` says it, `docs/access.md` shows it, and the API
//! server is asked about every verb of every cell, also those that are to be refused.

use std::fs;

use gridstake_e2e::{
    access::{self, Person, Question},
    command::{checkout, kubectl},
    prelude::*,
};

/// Every verb that is asked about.
const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];
/// In a cell: what Kubernetes' own roles give, which is not asked about.
const NOT_OURS: &str = "?";

/// A line of the table: a resource at a place, and what is said of each person.
struct Row<'a> {
    place: &'a str,
    resource: &'a str,
    name: &'a str,
    cells: Vec<(&'a str, &'a str)>,
}

fn rows(table: &str) -> Result<Vec<Row<'_>>> {
    let mut lines = table.lines();
    let head: Vec<_> = lines
        .next()
        .context("the table is empty")?
        .split(',')
        .collect();
    let [first, second, third, people @ ..] = head.as_slice() else {
        bail!("the table's first line has no people: {head:?}");
    };
    ensure!(
        [*first, *second, *third] == ["place", "resource", "name"],
        "the table begins with {head:?}"
    );
    lines
        .map(|line| {
            let cells: Vec<_> = line.split(',').collect();
            let [place, resource, name, cells @ ..] = cells.as_slice() else {
                bail!("{line:?} has too few cells");
            };
            ensure!(
                cells.len() == people.len(),
                "{line:?} has {} cells for {} people",
                cells.len(),
                people.len()
            );
            Ok(Row {
                place,
                resource,
                name,
                cells: people.iter().copied().zip(cells.iter().copied()).collect(),
            })
        })
        .collect()
}

/// The verbs that a cell names; `read` stands for three.
fn granted(cell: &str) -> Result<Vec<&str>> {
    let mut verbs = Vec::new();
    for word in cell.split_whitespace() {
        match word {
            "-" => {}
            "read" => verbs.extend(["get", "list", "watch"]),
            verb => {
                ensure!(VERBS.contains(&verb), "{verb:?} is no verb");
                verbs.push(verb);
            }
        }
    }
    Ok(verbs)
}

#[test]
fn everybody_may_do_what_the_table_says_and_nothing_else() -> Result<()> {
    story(async |world, tenant| {
        let file = checkout().join("charts/gridstake/tests/access.csv");
        let table =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let people = access::cast(world, tenant).await?;
        let mut questions = Vec::new();
        for row in rows(&table)? {
            let namespace = access::namespace_of(world, tenant, row.place)?;
            for (who, cell) in row.cells {
                if cell == NOT_OURS {
                    continue;
                }
                let person: &Person = people
                    .iter()
                    .find(|p| p.name == who)
                    .with_context(|| format!("{who} is nobody in this story"))?;
                let granted = granted(cell)
                    .with_context(|| format!("{who} on {} at {}", row.resource, row.place))?;
                questions.extend(VERBS.map(|verb| Question {
                    person: person.clone(),
                    verb: verb.into(),
                    resource: row.resource.into(),
                    name: row.name.into(),
                    namespace: namespace.clone(),
                    expected: granted.contains(&verb),
                }));
            }
        }
        let yes = questions.iter().filter(|q| q.expected).count();
        ensure!(
            yes > 100 && questions.len() - yes > 1000,
            "{yes} of {} questions are to be answered yes",
            questions.len()
        );
        // Aggregated roles are filled a moment after they are made.
        look_until("every answer is as the table says", || async {
            let wrong: Vec<_> = access::ask_all(world, &questions)
                .await?
                .into_iter()
                .filter(|answer| answer.allowed != answer.question.expected)
                .map(|answer| answer.to_string())
                .collect();
            Ok(Look::whether(wrong.is_empty(), || wrong.join("; ")))
        })
        .await?;
        println!("{} questions, {yes} of them answered yes", questions.len());

        // The same by the command that people use.
        for (who, verb, resource, expected) in [
            ("provider", "patch", "gpunodes.gridstake.dev", "yes"),
            (
                "provider",
                "create",
                "settlementbatches.gridstake.dev",
                "no",
            ),
            ("auditor", "list", "incidents.gridstake.dev", "yes"),
            ("auditor", "delete", "incidents.gridstake.dev", "no"),
        ] {
            let person = people
                .iter()
                .find(|p| p.name == who)
                .context("a person of the story")?;
            let user = format!("--as={}", person.user);
            // It ends with 1 where the answer is no, and prints it all the same.
            let answer = kubectl(["auth", "can-i", verb, resource, &user]).await;
            let said =
                answer.map_or_else(|error| format!("{error:#}"), |text| text.trim().to_owned());
            let right = if expected == "yes" {
                said == "yes"
            } else {
                !said.starts_with("yes") && said.contains("exit status: 1")
            };
            ensure!(
                right,
                "kubectl auth can-i {verb} {resource} as {who}: {said}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_cell_of_the_table_names_verbs() -> Result<()> {
    ensure!(
        granted("read create")? == ["get", "list", "watch", "create"],
        "read stands for three verbs"
    );
    ensure!(granted("-")?.is_empty(), "a dash is no verb");
    ensure!(
        granted("write").is_err(),
        "a word that is no verb is refused"
    );
    Ok(())
}
