//! Which nodes can take one member of a request, and why the others cannot, from the lines of the log alone. Pure.
//!
//! Written from docs/scheduling.md, and not from the scheduler: it is there to notice where the two differ.

use std::collections::BTreeMap;

use gridstake_ledger::archive::decisions::{
    Amounts, Node, Request, Requirement, Taint, Term, Toleration,
};

/// Why the node cannot take a member, by the first rule that it does not meet; `None` if it can. `at_ms` is the moment of the
/// decision.
pub fn obstacle(node: &Node, request: &Request, at_ms: i64) -> Option<&'static str> {
    let rules: [(&'static str, bool); 18] = [
        ("ModelMismatch", has_model(node, request)),
        ("GpuMemoryTooSmall", has_memory(node, request)),
        ("ComputeCapabilityTooLow", is_capable(node, request)),
        (
            "RegionMismatch",
            is_among(&request.regions, node.region.as_deref()),
        ),
        (
            "JurisdictionMismatch",
            is_among(&request.jurisdictions, node.jurisdiction.as_deref()),
        ),
        ("NamespaceExcluded", serves(node, request)),
        ("SelectorMismatch", is_selected(node, request)),
        (
            "TopologyLabelMissing",
            request
                .closeness
                .as_ref()
                .is_none_or(|wanted| !wanted.required || node.labels.contains_key(&wanted.key)),
        ),
        (
            "OtherChain",
            request.chain.is_none() || node.chain.is_none() || request.chain == node.chain,
        ),
        (
            "PriceTooHigh",
            request.max_price.is_none_or(|most| node.price <= most),
        ),
        ("NotOffered", node.withheld.is_none()),
        ("ClosesTooSoon", stays_open(node, request, at_ms)),
        ("Tainted", is_tolerated(node, &request.tolerations)),
        ("Unbonded", node.bonded || !request.require_bond),
        (
            "ReputationTooLow",
            node.reputation >= request.min_reputation,
        ),
        ("NoWeight", weight(node) > 0),
        ("Suspect", !request.avoid.contains(&node.name)),
        ("SameOwner", !request.same_owner.contains(&node.name)),
    ];
    let unmet = rules.into_iter().find(|(_, met)| !met);
    unmet
        .map(|(reason, _)| reason)
        .or_else(|| {
            shortages(&free(node), &request.each)
                .into_iter()
                .find_map(|(reason, is_short)| is_short.then_some(reason))
        })
        .or_else(|| (room(node, request) == 0).then_some("Held"))
}

/// The weight of a node in the draw.
pub fn weight(node: &Node) -> u64 {
    weigh(node.stake, node.reputation, node.price)
}

/// The weight by stake in whole tokens, reputation in thousandths and price in nano-tokens per GPU-second: `min(2^40, ⌊stake ·
/// reputation · 2^20 ÷ price⌋)`, with a stake of at most 2^32 − 1 tokens, a reputation of at most 1000 and a price of at least 1
/// (docs/scheduling.md).
pub fn weigh(stake: u64, reputation: u32, price: u128) -> u64 {
    let stake = u128::from(stake.min(u64::from(u32::MAX)));
    let reputation = u128::from(reputation.min(1000));
    let price = price.clamp(1, u128::from(u64::MAX));
    let weight = ((stake * reputation) << 20) / price;
    u64::try_from(weight.min(1 << 40)).unwrap_or(1 << 40)
}

/// What is left of the node: of GPUs at most as many as are usable.
pub fn free(node: &Node) -> Amounts {
    let usable = node.gpus.iter().filter(|gpu| gpu.usable).count() as u64;
    let (has, taken) = (&node.allocatable, &node.taken);
    let other = has.other.iter().map(|(name, amount)| {
        let taken = taken.other.get(name).copied().unwrap_or(0);
        (name.clone(), amount.saturating_sub(taken))
    });
    Amounts {
        cpu_milli: has.cpu_milli.saturating_sub(taken.cpu_milli),
        memory_bytes: has.memory_bytes.saturating_sub(taken.memory_bytes),
        ephemeral_storage_bytes: has
            .ephemeral_storage_bytes
            .saturating_sub(taken.ephemeral_storage_bytes),
        pods: has.pods.saturating_sub(taken.pods),
        gpus: has.gpus.min(usable).saturating_sub(taken.gpus),
        other: other.collect(),
    }
}

/// How many members the node could take, beside what is kept on it for a job before.
pub fn room(node: &Node, request: &Request) -> u64 {
    let free = how_often(&free(node), &request.each);
    let kept = request.kept.get(&node.name);
    kept.map_or(free, |spare| free.min(how_often(spare, &request.each)))
}

/// How often `each` fits.
fn how_often(free: &Amounts, each: &Amounts) -> u64 {
    let named = [
        (free.gpus, each.gpus),
        (free.cpu_milli, each.cpu_milli),
        (free.memory_bytes, each.memory_bytes),
        (free.ephemeral_storage_bytes, each.ephemeral_storage_bytes),
        (free.pods, each.pods),
    ];
    let other = each
        .other
        .iter()
        .map(|(name, asked)| (free.other.get(name).copied().unwrap_or(0), *asked));
    named
        .into_iter()
        .chain(other)
        .filter(|(_, asked)| *asked > 0)
        .map(|(has, asked)| has / asked)
        .min()
        .unwrap_or(u64::MAX)
}

/// Each resource that is asked for, in the order of the rules, and whether there is too little of it.
fn shortages(free: &Amounts, each: &Amounts) -> Vec<(&'static str, bool)> {
    let mut all = vec![
        ("InsufficientGpus", free.gpus < each.gpus),
        ("InsufficientCpu", free.cpu_milli < each.cpu_milli),
        ("InsufficientMemory", free.memory_bytes < each.memory_bytes),
        (
            "InsufficientEphemeralStorage",
            free.ephemeral_storage_bytes < each.ephemeral_storage_bytes,
        ),
        ("InsufficientPods", free.pods < each.pods),
    ];
    all.extend(each.other.iter().map(|(name, asked)| {
        let has = free.other.get(name).copied().unwrap_or(0);
        ("InsufficientResource", has < *asked)
    }));
    all
}

/// Adds `more` to `amounts`.
pub fn add(amounts: &mut Amounts, more: &Amounts) {
    change(amounts, more, u64::saturating_add);
}

/// Takes `less` away from `amounts`.
pub fn subtract(amounts: &mut Amounts, less: &Amounts) {
    change(amounts, less, u64::saturating_sub);
}

fn change(amounts: &mut Amounts, by: &Amounts, how: fn(u64, u64) -> u64) {
    amounts.cpu_milli = how(amounts.cpu_milli, by.cpu_milli);
    amounts.memory_bytes = how(amounts.memory_bytes, by.memory_bytes);
    amounts.ephemeral_storage_bytes =
        how(amounts.ephemeral_storage_bytes, by.ephemeral_storage_bytes);
    amounts.pods = how(amounts.pods, by.pods);
    amounts.gpus = how(amounts.gpus, by.gpus);
    for (name, by) in &by.other {
        let amount = amounts.other.entry(name.clone()).or_default();
        *amount = how(*amount, *by);
    }
    // What is 0 is not told.
    amounts.other.retain(|_, amount| *amount > 0);
}

fn has_model(node: &Node, request: &Request) -> bool {
    let suits = |product: &str| request.models.iter().any(|asked| is_model(asked, product));
    request.models.is_empty() || node.gpus.iter().all(|gpu| suits(&gpu.model))
}

/// Words that name another product when they follow a model's name.
const OTHER_PRODUCTS: [&str; 7] = ["ti", "super", "d", "laptop", "mobile", "max", "with"];

/// Whether `product` is meant by `asked`: all words asked for occur in it, or its neighbouring words, run together, are what was
/// asked for, run together; and no word that makes another product of it follows a word that was asked for unless it was too.
fn is_model(asked: &str, product: &str) -> bool {
    let split = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|letter: char| !letter.is_alphanumeric());
        words
            .filter(|w| !w.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    };
    let (asked, product) = (split(asked), split(product));
    if asked.is_empty() {
        return false;
    }
    let meant: Vec<bool> = if asked.iter().all(|word| product.contains(word)) {
        product.iter().map(|word| asked.contains(word)).collect()
    } else {
        let together = asked.concat();
        let spans = (0..product.len())
            .flat_map(|from| (from + 1..=product.len()).map(move |until| from..until));
        let Some(span) = spans.into_iter().find(|span| {
            let words = product.get(span.clone()).unwrap_or_default();
            words.concat() == together
        }) else {
            return false;
        };
        (0..product.len()).map(|at| span.contains(&at)).collect()
    };
    let next = meant.iter().zip(&product).skip(1);
    !meant
        .iter()
        .zip(next)
        .any(|(this, (next, word))| *this && !next && OTHER_PRODUCTS.contains(&word.as_str()))
}

fn has_memory(node: &Node, request: &Request) -> bool {
    let least = request.min_memory_mib.unwrap_or(0);
    node.gpus.iter().all(|gpu| gpu.memory_mib >= least)
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is_capable(node: &Node, request: &Request) -> bool {
    let Some(least) = request.min_compute_capability.as_deref().and_then(version) else {
        return request.min_compute_capability.is_none();
    };
    node.gpus.iter().all(|gpu| {
        let has = gpu.compute_capability.as_deref().and_then(version);
        has.is_some_and(|has| has >= least)
    })
}

fn is_among(wanted: &[String], has: Option<&str>) -> bool {
    wanted.is_empty() || has.is_some_and(|has| wanted.iter().any(|w| w.eq_ignore_ascii_case(has)))
}

fn serves(node: &Node, request: &Request) -> bool {
    let labels = &request.namespace_labels;
    node.namespaces.as_ref().is_none_or(|rules| {
        rules
            .iter()
            .all(|rule| holds(rule, labels.get(&rule.key).map(String::as_str)))
    })
}

fn is_selected(node: &Node, request: &Request) -> bool {
    let has = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
    request.node_selector.iter().all(has)
        && request
            .affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| meets(node, term)))
}

fn meets(node: &Node, term: &Term) -> bool {
    let label = |rule: &Requirement| holds(rule, node.labels.get(&rule.key).map(String::as_str));
    let field = |rule: &Requirement| rule.key == "metadata.name" && holds(rule, Some(&node.name));
    !(term.labels.is_empty() && term.fields.is_empty())
        && term.labels.iter().all(label)
        && term.fields.iter().all(field)
}

/// Whether a label with this value, or without one, meets the rule, as Kubernetes understands it.
fn holds(rule: &Requirement, value: Option<&str>) -> bool {
    let is_listed = value.is_some_and(|value| rule.values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = || match rule.values.as_slice() {
        [bound] => Some((number(value?)?, number(bound)?)),
        _ => None,
    };
    match rule.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(has, bound)| has > bound),
        "Lt" => numbers().is_some_and(|(has, bound)| has < bound),
        _ => false,
    }
}

fn stays_open(node: &Node, request: &Request, at_ms: i64) -> bool {
    let left = node
        .closes_at_ms
        .map(|closes| closes.saturating_sub(at_ms).unsigned_abs());
    left.zip(request.run_limit_ms)
        .is_none_or(|(left, limit)| limit <= left)
}

fn is_tolerated(node: &Node, tolerations: &[Toleration]) -> bool {
    let cordon = node.cordoned.then(|| Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        value: None,
        effect: "NoSchedule".to_owned(),
    });
    let keeps_off = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints
        .iter()
        .filter(keeps_off)
        .chain(&cordon)
        .all(|taint| tolerations.iter().any(|one| puts_up_with(one, taint)))
}

fn puts_up_with(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let key = given(&toleration.key);
    let same_effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let same_key = key.as_ref().is_none_or(|key| *key == taint.key);
    let same_value = given(&toleration.value) == given(&taint.value);
    let fits = match given(&toleration.operator).as_deref() {
        Some("Exists") => true,
        None | Some("Equal") => key.is_some() && same_value,
        Some(_) => false,
    };
    same_effect && same_key && fits
}

/// How many nodes cannot take a member, by the first reason, and those that can, in canonical order: by model, region, zone,
/// rack and name.
pub fn sort<'a>(
    fleet: impl Iterator<Item = &'a Node>,
    request: &Request,
    at_ms: i64,
) -> (BTreeMap<String, u32>, Vec<&'a Node>) {
    let mut obstacles: BTreeMap<String, u32> = BTreeMap::new();
    let mut fit = Vec::new();
    for node in fleet {
        match obstacle(node, request, at_ms) {
            Some(reason) => *obstacles.entry(reason.to_owned()).or_default() += 1,
            None => fit.push(node),
        }
    }
    fit.sort_by(|a, b| place(a).cmp(&place(b)));
    (obstacles, fit)
}

/// A node's place in the canonical order.
fn place(node: &Node) -> [&str; 5] {
    let label = |key: &str| node.labels.get(key).map_or("", String::as_str);
    let models = node.gpus.iter().map(|gpu| gpu.model.as_str());
    [
        models.min().unwrap_or_default(),
        node.region.as_deref().unwrap_or_default(),
        label("topology.kubernetes.io/zone"),
        label("gridstake.dev/rack"),
        &node.name,
    ]
}
