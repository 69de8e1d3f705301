/** The smallest exchange that computes: a table of kinds and amounts at each data provider, whose sums are known. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { AnswerRow } from "../../cli/client.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { DataSet } from "../../lib/model/dataset.ts";
import { ANALYST, writeConfiguration } from "./exchange.ts";

/** Data set `numbers`: table `Numbers` with `kind` and `amount`. */
export const NUMBERS: DataSet = {
  name: "numbers",
  type: "csv",
  tables: [
    {
      name: "Numbers",
      columns: [
        { name: "kind", type: { type: "text" } },
        { name: "amount", type: { type: "integer" } },
      ],
    },
  ],
  sensitive_columns: {},
};

/** Asks for the sum of each kind. */
export const SUM_QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT kind, amount FROM Numbers",
  algorithm: "sum",
  algorithmColumns: { kind: "amount" },
};

/** Approval of both data providers for the sample's analyst. */
export const NUMBERS_APPROVAL = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"] };

const FILES = {
  VU: "kind;amount\na;1\na;2\nb;10\n",
  UVA: "kind;amount\na;100\nb;1000\nb;1000\n",
} as const;

/** Sum of each kind at each provider, and at both. */
export const KNOWN_SUMS = {
  VU: { a: 3, b: 10 },
  UVA: { a: 100, b: 2000 },
  pooled: { a: 103, b: 2010 },
} as const;

/** Beyond VU, UVA and the third party SURF. */
export interface NumbersOptions {
  /** What every provider's agreement grants the sample's analyst beyond the usual. */
  readonly relation?: Partial<Agreement["relations"][string]>;
  /** Further third parties, which every agreement accepts. */
  readonly thirdParties?: readonly string[];
  /** Further data providers, with the same data as VU. */
  readonly providers?: readonly string[];
}

/** Writes the configuration, and resolves with its folder. */
export async function numbersConfiguration(options: NumbersOptions = {}): Promise<string> {
  const { relation = {}, thirdParties = [], providers = [] } = options;
  const computeProviders = ["SURF", ...thirdParties];
  const files: Record<string, string> = { ...FILES, ...Object.fromEntries(providers.map((name) => [name, FILES.VU])) };
  const folder = await writeConfiguration({
    dataSet: NUMBERS,
    providers: Object.fromEntries(Object.entries(files).map(([name, text]) => [name, { Numbers: text }])),
    relation,
  });
  for (const name of thirdParties) await writeDocument(folder, `parties/${name}.json`, { dataSets: {} });
  for (const name of Object.keys(files)) {
    await writeDocument(folder, `agreements/${name}.json`, numbersAgreement(name, { computeProviders }, relation));
  }
  return folder;
}

/** An agreement of a provider of numbers with the sample's analyst. */
export function numbersAgreement(
  name: string,
  own: Partial<Agreement> = {},
  relation: Partial<Agreement["relations"][string]> = {},
): Agreement {
  const archetypes = ["computeToData", "dataThroughTtp"];
  const computeProviders = own.computeProviders ?? ["SURF"];
  return {
    name,
    relations: {
      [ANALYST.userName]: {
        ID: ANALYST.id,
        requestTypes: ["sqlDataRequest"],
        dataSets: [NUMBERS.name],
        allowedArchetypes: archetypes,
        allowedComputeProviders: computeProviders,
        rawRows: true,
        ...relation,
      },
    },
    computeProviders,
    archetypes,
    ...own,
  };
}

/** The sums of an answer, by kind. */
export function sumsOf(rows: readonly AnswerRow[] | undefined): Record<string, number> {
  return Object.fromEntries((rows ?? []).map((row) => [String(row["kind"]), Number(row["sum_amount"])]));
}

/** Writes a JSON document into a configuration folder. */
export async function writeDocument(folder: string, path: string, document: unknown): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  await writeFile(join(folder, path), JSON.stringify(document, undefined, 2));
}
