//! Whether a GPU's product name is one that a tenant asked for.
//!
//! Names are compared word by word, regardless of case and punctuation: "H100" and "H100 80GB" match
//! "NVIDIA H100 80GB HBM3", "A100-SXM4" matches "NVIDIA A100-SXM4-80GB", "RTX4090" matches "NVIDIA GeForce RTX 4090";
//! "A10" does not match "NVIDIA A100" and "L40" not "NVIDIA L40S".
//!
//! A word that makes another product of a name must be asked for: "RTX 4070" does not match "RTX 4070 Ti", nor "RTX
//! 4090" the slower "RTX 4090 D" or "RTX 4090 Laptop GPU".

/// Words that, right behind a model, name a different product.
const VARIANTS: [&str; 7] = ["ti", "super", "d", "laptop", "mobile", "max", "with"];

/// Whether the product `name` is what `asked` means.
#[must_use]
pub fn matches(asked: &str, name: &str) -> bool {
    let asked = words(asked);
    let name = words(name);
    if asked.is_empty() {
        return false;
    }
    let Some(matched) = matched_words(&asked, &name) else {
        return false;
    };
    // No variant may follow what was asked for, unless it was asked for itself.
    !matched.iter().enumerate().any(|(position, hit)| {
        *hit && matched.get(position + 1) == Some(&false)
            && name
                .get(position + 1)
                .is_some_and(|word| VARIANTS.contains(&word.as_str()))
    })
}

fn words(text: &str) -> Vec<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// For every word of the name whether it was asked for; `None` when something asked for does not occur.
fn matched_words(asked: &[String], name: &[String]) -> Option<Vec<bool>> {
    let each: Vec<bool> = name.iter().map(|word| asked.contains(word)).collect();
    if asked.iter().all(|word| name.contains(word)) {
        return Some(each);
    }
    // The same letters with other gaps: "RTX4090" for "RTX 4090".
    let joined = asked.concat();
    (0..name.len()).find_map(|start| {
        let mut run = String::new();
        let length = name[start..].iter().position(|word| {
            run.push_str(word);
            run.len() >= joined.len()
        })? + 1;
        (run == joined).then(|| {
            (0..name.len())
                .map(|position| (start..start + length).contains(&position))
                .collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_a_tenant_expects() {
        for (asked, name, expected) in [
            ("H100", "NVIDIA H100 80GB HBM3", true),
            ("h100 80gb", "NVIDIA H100 80GB HBM3", true),
            ("H100 HBM3", "NVIDIA H100 80GB HBM3", true),
            ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", true),
            ("H100", "NVIDIA H100 NVL", true),
            ("H100 NVL", "NVIDIA H100 80GB HBM3", false),
            ("H10", "NVIDIA H100 80GB HBM3", false),
            ("100", "NVIDIA H100 80GB HBM3", false),
            ("A10", "NVIDIA A100-SXM4-80GB", false),
            ("A100-SXM4", "NVIDIA A100-SXM4-80GB", true),
            ("A100 80GB", "NVIDIA A100-SXM4-80GB", true),
            ("L40", "NVIDIA L40S", false),
            ("L40S", "NVIDIA L40S", true),
            ("RTX 4090", "NVIDIA GeForce RTX 4090", true),
            ("RTX4090", "NVIDIA GeForce RTX 4090", true),
            ("rtx-4090", "NVIDIA GeForce RTX 4090", true),
            ("GeForceRTX4090", "NVIDIA GeForce RTX 4090", true),
            ("4090", "NVIDIA GeForce RTX 4090", true),
            ("RTX 4090", "NVIDIA GeForce RTX 4090 D", false),
            ("RTX 4090 D", "NVIDIA GeForce RTX 4090 D", true),
            ("RTX 4090", "NVIDIA GeForce RTX 4090 Laptop GPU", false),
            (
                "RTX 4090 Laptop",
                "NVIDIA GeForce RTX 4090 Laptop GPU",
                true,
            ),
            ("RTX 4070", "NVIDIA GeForce RTX 4070 Ti", false),
            ("RTX4070", "NVIDIA GeForce RTX 4070 Ti", false),
            ("RTX4070Ti", "NVIDIA GeForce RTX 4070 Ti", true),
            ("RTX 4070 Ti", "NVIDIA GeForce RTX 4070 Ti SUPER", false),
            (
                "RTX 2080",
                "NVIDIA GeForce RTX 2080 with Max-Q Design",
                false,
            ),
            ("", "NVIDIA L4", false),
            ("--", "NVIDIA L4", false),
            ("L4", "", false),
        ] {
            assert_eq!(matches(asked, name), expected, "{asked:?} on {name:?}");
        }
    }
}
