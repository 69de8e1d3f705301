/**
 * Measurements: `npm run bench` runs all tables, `npm run bench -- NAME …` those named.
 *
 *     --list           what there is
 *     --rounds N       how often each thing is measured
 *     --lifetime NAME  of `archetypes`: chains of this lifetime alone (cold, warm or persistent), in an exchange of as few parties
 *     --quick          the smallest sizes, once
 *     --json FILE      writes everything for machines
 *     --add            keeps the tables in FILE that this run does not measure
 *     --document       measures nothing: writes the tables of docs/performance.md anew, from docs/performance/*.json
 *     --profiles DIR   lets the processes of `rows` write profiles there
 *
 * Tables go to standard output, progress to standard error. Numbers after a name are the measurement's own.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { describeBackends } from "../test/support/backends.ts";
import { COMMAND_BENCHES, TABLE_BENCHES } from "./benches.ts";
import { refreshDocument, writeFormatted } from "./document.ts";
import { describeMachine, load, thisMachine } from "./machine.ts";
import { textTable } from "./print.ts";
import { mergedReports, toReport, type Report } from "./report.ts";
import type { RunOptions, Table } from "./table.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    list: { type: "boolean", default: false },
    quick: { type: "boolean", default: false },
    rounds: { type: "string" },
    lifetime: { type: "string" },
    json: { type: "string" },
    add: { type: "boolean", default: false },
    document: { type: "boolean", default: false },
    profiles: { type: "string" },
  },
});
const names = positionals.filter((word) => !isNumber(word));
const numbers = positionals.filter(isNumber).map(Number);
const known = [...TABLE_BENCHES, ...COMMAND_BENCHES].map(({ name }) => name);
const unknown = names.filter((name) => !known.includes(name));

if (values.list) list();
else if (values.document) await refreshDocument();
else if (unknown.length > 0 || (values.rounds !== undefined && !(Number(values.rounds) >= 1))) {
  const fault =
    unknown.length > 0
      ? `There is no measurement "${unknown.join('", "')}"; there are: ${known.join(", ")}.`
      : `--rounds ${String(values.rounds)}: write a number from 1.`;
  console.error(fault);
  process.exitCode = 1;
} else await measure();

async function measure(): Promise<void> {
  const startedAt = performance.now();
  const loadBefore = load();
  const machine = thisMachine(loadBefore);
  console.error(`On ${describeBackends(machine.backends)}, load average ${String(loadBefore)}.`);
  const tables: Table[] = [];
  const options: RunOptions = {
    rounds: values.rounds === undefined ? undefined : Number(values.rounds),
    quick: values.quick,
    lifetime: values.lifetime,
    numbers,
    profiles: values.profiles === undefined ? undefined : resolve(values.profiles),
    progress: (line) => console.error(`[${((performance.now() - startedAt) / 1000).toFixed(0)} s] ${line}`),
  };
  for (const bench of TABLE_BENCHES) {
    if (names.length === 0 ? bench.onlyByName === true : !names.includes(bench.name)) continue;
    for (const table of await bench.run(options)) {
      tables.push(table);
      console.log(textTable(table));
    }
  }
  for (const { name, run } of COMMAND_BENCHES) if (names.includes(name)) await run(...numbers);
  if (tables.length === 0) return;
  const after = thisMachine(loadBefore);
  console.log(`\n${describeMachine(after)}`);
  if (values.json !== undefined) await writeReport(values.json, toReport(after, options, tables));
}

async function writeReport(path: string, report: Report): Promise<void> {
  const isThere = values.add && existsSync(path);
  const whole = isThere ? mergedReports(JSON.parse(await readFile(path, "utf8")) as Report, report) : report;
  await writeFormatted(path, JSON.stringify(whole));
}

function list(): void {
  const line = (name: string, about: string): string => `  ${name.padEnd(14)} ${about}`;
  const always = TABLE_BENCHES.filter(({ onlyByName }) => onlyByName !== true);
  const named = [...TABLE_BENCHES.filter(({ onlyByName }) => onlyByName === true), ...COMMAND_BENCHES];
  console.log("Run by npm run bench:");
  for (const { name, about } of always) console.log(line(name, about));
  console.log("Only when named:");
  for (const { name, about } of named) console.log(line(name, about));
}

function isNumber(word: string): boolean {
  return /^\d+$/.test(word);
}
