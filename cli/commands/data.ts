/** `dynamos data`: what a steward does with files before an exchange reads them. */
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { checkFiles } from "../../agent/data/check-files.ts";
import { readDataPods } from "../../agent/data/data-pods.ts";
import { proposeTable } from "../../agent/data/propose-columns.ts";
import { readJsonFile } from "../../lib/config/json-file.ts";
import { AppError } from "../../lib/errors.ts";
import { DataSet } from "../../lib/model/dataset.ts";
import { SAMPLE_STEWARDS, writeSampleData, type SampleStewardName } from "../generate-sample-data.ts";

type Write = (line: string) => void;

/** Faults shown; the rest is counted. */
const MAX_FAULTS = 50;

/**
 * Runs `propose`, `check` or `sample`; the exit code is 0, 1 for faults in files, or 2 for a wrong command line.
 * Notes for people go to standard error, so that the proposal can be redirected into a file.
 */
export async function data(args: string[], write: Write, note: Write = (line) => console.error(line)): Promise<number> {
  const [command = "", ...rest] = args;
  switch (command) {
    case "propose": {
      const { values, positionals } = parse(rest, { delimiter: { type: "string" } });
      if (positionals.length === 0) return misused("dynamos data propose FILE … [--delimiter CHARACTER]", note);
      return propose(positionals, values["delimiter"], write, note);
    }
    case "check": {
      const [dataSetFile, partyFile, ...more] = parse(rest, {}).positionals;
      if (dataSetFile === undefined || partyFile === undefined || more.length > 0) {
        return misused("dynamos data check DATASET.json PARTY.json", note);
      }
      return check(dataSetFile, partyFile, write, note);
    }
    case "sample": {
      const [folder, ...more] = parse(rest, {}).positionals;
      if (folder === undefined || more.length > 0) return misused("dynamos data sample FOLDER", note);
      return sample(folder, write);
    }
    default:
      return misused("dynamos data propose | check | sample", note);
  }
}

/** Arguments of a command; those that it does not know are `invalid_argument`. */
function parse(
  args: string[],
  options: Readonly<Record<string, { readonly type: "string" }>>,
): { readonly values: Readonly<Record<string, string | undefined>>; readonly positionals: readonly string[] } {
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
    return { values: values, positionals };
  } catch (error) {
    throw new AppError("invalid_argument", (error as Error).message, { cause: error });
  }
}

function misused(usage: string, note: Write): number {
  note(`Use: ${usage}`);
  return 2;
}

async function propose(
  files: readonly string[],
  delimiter: string | undefined,
  write: Write,
  note: Write,
): Promise<number> {
  const proposals = [];
  for (const file of files) {
    const proposal = await proposeTable(file, delimiter === undefined ? {} : { delimiter });
    proposals.push(proposal);
    note(`${file}: ${String(proposal.rows)} rows, ${String(proposal.table.columns.length)} columns.`);
    for (const line of proposal.notes) note(`  ${line}`);
  }
  const delimiters = [...new Set(proposals.map((proposal) => proposal.delimiter))];
  if (delimiters.length > 1) {
    throw new AppError("data_invalid", "The files have different delimiters; one data set has one.");
  }
  note("Give the data set its name, and name the sensitive columns of each table with their anonymization.");
  const dataSet = {
    name: proposals[0]?.table.name ?? "",
    type: "csv",
    delimiter: delimiters[0] ?? ";",
    tables: proposals.map(({ table }) => table),
    sensitive_columns: Object.fromEntries(proposals.map(({ table }) => [table.name, []])),
  } satisfies DataSet;
  write(documentText(dataSet));
  return 0;
}

/** A data set's document with one column per line. */
function documentText(dataSet: DataSet): string {
  const lines = JSON.stringify(dataSet, null, 2);
  return lines.replace(
    /\{\n\s+"name": ("[^"]*"),\n\s+"type": (\{[^}]*\})([^{}]*)\}/g,
    (_, name: string, type: string, rest: string) =>
      `{ "name": ${name}, "type": ${type.replace(/\s+/g, " ")}${rest.replace(/\s+/g, " ")}}`.replace(/(\S)\}$/, "$1 }"),
  );
}

async function check(dataSetFile: string, partyFile: string, write: Write, note: Write): Promise<number> {
  const dataSet = await readJsonFile(dataSetFile, DataSet);
  const { dataSets } = await readDataPods(partyFile);
  const pod = dataSets[dataSet.name];
  if (pod === undefined) {
    throw new AppError(
      "configuration_invalid",
      `The party has no data for the data set ${dataSet.name}; it has data for: ${Object.keys(dataSets).join(", ") || "none"}.`,
      { place: { file: partyFile } },
    );
  }
  let faults = 0;
  await checkFiles(dataSet, pod, {
    onFault: (fault) => {
      if (++faults <= MAX_FAULTS) note(faultLine(fault));
    },
    onFile: ({ table, path, rows }) =>
      write(`${path}: ${table}, ${rows === undefined ? "columns" : `${String(rows)} rows`} as declared`),
  });
  if (faults > MAX_FAULTS) note(`… and ${String(faults - MAX_FAULTS)} more.`);
  if (faults > 0) note(`${String(faults)} ${faults === 1 ? "fault" : "faults"}.`);
  return faults === 0 ? 0 : 1;
}

/** `file:line:column: message`, as editors and terminals open it. */
function faultLine(fault: AppError): string {
  const { file, line, column } = fault.place ?? {};
  const where = [file, line, column].filter((part) => part !== undefined).join(":");
  const longForm = `${String(file)}, line ${String(line)}, column ${String(column)}: `;
  return `${where}: ${fault.message.replace(longForm, "")} [${fault.code}]`;
}

async function sample(folder: string, write: Write): Promise<number> {
  for (const steward of Object.keys(SAMPLE_STEWARDS) as SampleStewardName[]) {
    const paths = await writeSampleData(join(resolve(folder), steward), steward);
    for (const path of Object.values(paths)) write(path);
  }
  return 0;
}
