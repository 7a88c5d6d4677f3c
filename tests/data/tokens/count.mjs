// Reads a JSON array of texts from stdin, writes [[claude, o200k], ...]: their true counts.
// Run by fit.py, in a folder where both packages are installed.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.cwd() + "/");
const { getTokenizer } = require("@anthropic-ai/tokenizer");
const o200k = require("gpt-tokenizer/encoding/o200k_base");

const claude = getTokenizer();
const asText = { disallowedSpecial: new Set() };
const texts = JSON.parse(readFileSync(0, "utf8"));
const counts = texts.map((text) => [
  claude.encode(text.normalize("NFKC"), "all").length,
  o200k.encode(text, asText).length,
]);
process.stdout.write(JSON.stringify(counts));
