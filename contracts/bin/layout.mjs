// Writes the storage layout of forge's artifacts as text, a line a variable, members of structs under it.
// Usage: node bin/layout.mjs [--check], in contracts/.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const contracts = ["Settlement", "StakeVault"];
const check = process.argv.includes("--check");
mkdirSync("layout", { recursive: true });

let stale = 0;
for (const name of contracts) {
  const candidates = [`out/${name}.sol/${name}.default.json`, `out/${name}.sol/${name}.json`];
  const { storageLayout } = JSON.parse(readFileSync(candidates.find(existsSync), "utf8"));
  if (!storageLayout) throw new Error(`the artifact of ${name} has no storage layout: remove contracts/out and build again`);
  const text = `slot  offset  bytes  variable\n${storageLayout.storage.flatMap((variable) => lines(variable, "")).join("\n")}\n`;
  const file = `layout/${name}.txt`;
  if (!check) {
    writeFileSync(file, text);
  } else if ((existsSync(file) ? readFileSync(file, "utf8") : "") !== text) {
    console.error(`contracts/${file} is not what the sources compile to: run contracts/layout.sh and commit it`);
    stale = 1;
  }

  // Slots of a struct's members count from where the struct begins; those of a mapping's values from their hash.
  function lines({ label, slot, offset, type }, indent) {
    const { label: typeName, numberOfBytes } = storageLayout.types[type];
    const at = indent === "" ? slot : `+${slot}`;
    const own = `${at.padEnd(4)}  ${`${offset}`.padEnd(6)}  ${numberOfBytes.padEnd(5)}  ${indent}${typeName} ${label}`;
    return [own, ...membersOf(type).flatMap((member) => lines(member, `${indent}  `))];
  }

  // Of the struct that a type is, or that lies in its arrays and mappings.
  function membersOf(type) {
    const { members, value, base } = storageLayout.types[type];
    if (members) return members;
    const inner = value ?? base;
    return inner ? membersOf(inner) : [];
  }
}
process.exit(stale);
