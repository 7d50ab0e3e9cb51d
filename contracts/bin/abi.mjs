// Cuts forge's artifacts down to what a caller needs. Usage: node bin/abi.mjs [--check], in contracts/.
// --check also looks for every event and error in docs/contracts.md.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const contracts = ["Settlement", "StakeVault", "GridToken", "TimelockController"];
const check = process.argv.includes("--check");
mkdirSync("abi", { recursive: true });

let stale = 0;
for (const name of contracts) {
  // What tests import themselves is there twice, as it is deployed and as they compile it.
  const fileOf = (source, profile) => `out/${source}.sol/${source}${profile}.json`;
  const candidates = [name, `I${name}`].flatMap((source) => [fileOf(source, ".default"), fileOf(source, "")]);
  const artifact = JSON.parse(readFileSync(candidates.find(existsSync), "utf8"));
  const text = `${JSON.stringify(
    {
      abi: artifact.abi,
      bytecode: artifact.bytecode.object,
      deployedBytecode: artifact.deployedBytecode.object,
    },
    null,
    2,
  )}\n`;
  const file = `abi/${name}.json`;
  if (check && undocumented(name, artifact.abi)) stale = 1;
  if (!check) {
    writeFileSync(file, text);
  } else if (read(file) !== text) {
    console.error(`contracts/${file} is not what the sources compile to: run contracts/abi.sh and commit it`);
    stale = 1;
  }
}
process.exit(stale);

// What OpenZeppelin's contracts declare is in their documentation.
function undocumented(name, abi) {
  if (name === "GridToken" || name === "TimelockController") return 0;
  const reference = read("../docs/contracts.md") ?? "";
  const inherited = /^(AccessControl|DefaultAdmin|EIP712|InvalidShortString|Reentrancy|Role[AGR]|Safe|StringTooLong)/;
  let missing = 0;
  for (const entry of abi.filter(({ type, name }) => /^(event|error)$/.test(type) && !inherited.test(name))) {
    const fields = entry.inputs.map(
      ({ type, internalType, indexed, name }) =>
        `${/^enum /.test(internalType) ? internalType.split(".").pop() : type} ${indexed ? "indexed " : ""}${name}`,
    );
    const signature = `${entry.name}(${fields.join(", ")})`;
    if (reference.includes(`\`${signature}\``)) continue;
    console.error(`docs/contracts.md does not have the ${entry.type} ${signature} of ${name}`);
    missing = 1;
  }
  return missing;
}

function read(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
