/** `docs/configuration.md` and the schemas say the same, in both directions. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TObject, TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AgentSettings } from "../../agent/config.ts";
import { DataPod, DataPods } from "../../agent/data/data-pods.ts";
import { AdminSettings } from "../../cli/credentials/admin-settings.ts";
import { CommandSettings, EXCHANGE_FLAGS, ExchangeFile } from "../../cli/exchange/settings.ts";
import { SAMPLE_TABLES } from "../../cli/generate-sample-data.ts";
import { CHAIN_VARIABLES } from "../../lib/jobs/chain-environment.ts";
import { DOCUMENT_KINDS } from "../../lib/knowledge/knowledge-base.ts";
import { Agreement, Relation } from "../../lib/model/agreement.ts";
import { Archetype } from "../../lib/model/archetype.ts";
import { Anonymization, ColumnType, DataSet } from "../../lib/model/dataset.ts";
import { Microservice } from "../../lib/model/microservice.ts";
import { ForcedServices, RequestType } from "../../lib/model/request-type.ts";
import { OrchestratorSettings } from "../../orchestrator/config.ts";
import { PolicyEnforcerSettings } from "../../orchestrator/policy-enforcer/config.ts";
import { SqlAnonymizeSettings } from "../../microservices/sql-anonymize/config.ts";
import { SqlAlgorithmSettings } from "../../microservices/sql-algorithm/config.ts";
import { SqlQuerySettings } from "../../microservices/sql-query/config.ts";
import { ProgramSettings } from "../../sdk/typescript/chain-settings.ts";
import { SidecarVariables } from "../../sidecar/config.ts";
import { MessagingSettings } from "../../sidecar/messaging-config.ts";
import { codeSpans, readPackageFile, sectionsOf, tableOf, type Table } from "../support/markdown.ts";

const document = await readPackageFile("docs/configuration.md");

const SETTINGS: Readonly<Record<string, TObject>> = {
  orchestrator: OrchestratorSettings,
  "policy enforcer": PolicyEnforcerSettings,
  agent: AgentSettings,
  sidecar: SidecarVariables,
  "messaging sidecar": MessagingSettings,
  "every microservice": ProgramSettings,
  "sql-query": SqlQuerySettings,
  "sql-algorithm": SqlAlgorithmSettings,
  "sql-anonymize": SqlAnonymizeSettings,
  administrator: AdminSettings,
};

const MEMBERS: Readonly<Record<string, TObject>> = {
  Archetype,
  "Request type": RequestType,
  Microservice,
  "Data set": DataSet,
  Agreement,
  Relation,
  "Forced services": ForcedServices,
  Party: DataPods,
};

/** The one name between backticks in a cell, or its text. */
function plain(cell: string | undefined): string {
  const spans = codeSpans(cell ?? "");
  return spans.length === 1 ? (spans[0] ?? "") : (cell ?? "");
}

/** What a table says of an object's members: name, and whether it is required. */
function membersIn(table: Table): readonly (readonly [string, string | undefined])[] {
  return table.rows.map((row) => [plain(row["Member"]), row["Required"]] as const);
}

function membersOf(schema: TObject): readonly (readonly [string, string])[] {
  return Object.keys(schema.properties).map((name) => [name, schema.required?.includes(name) ? "yes" : "no"] as const);
}

/** What a table of settings says: name, default, and what it is where the schema says so too. */
function settingsIn(table: Table): readonly (readonly string[])[] {
  return table.rows.map((row) => [plain(row["Setting"]), plain(row["Default"]), row["What"] ?? ""]);
}

function settingsOf(schema: TObject, table: Table): readonly (readonly string[])[] {
  return Object.entries(schema.properties).map(([name, property], index) => [
    name,
    defaultOf(property, schema.required?.includes(name) ?? false),
    // Some schemas leave to the document what a setting is.
    property.description ?? table.rows[index]?.["What"] ?? "",
  ]);
}

function defaultOf(property: TSchema, isRequired: boolean): string {
  const value = property.default as string | number | boolean | undefined;
  if (value !== undefined) return String(value);
  return isRequired ? "required" : "none";
}

for (const [title, schema] of Object.entries(SETTINGS)) {
  test(`the settings of ${title} are listed with their defaults, and no others`, () => {
    const table = tableOf(document, title);
    assert.deepEqual(settingsIn(table), settingsOf(schema, table));
  });
}

for (const [title, schema] of Object.entries(MEMBERS)) {
  test(`the members of ${title} are listed, and no others`, () => {
    assert.deepEqual(membersIn(tableOf(document, title)), membersOf(schema));
  });
}

test("the engines of data pods are listed with their members", () => {
  for (const [index, schema] of (DataPod.anyOf as readonly TObject[]).entries()) {
    assert.deepEqual(membersIn(tableOf(document, "Party", index + 1)), membersOf(schema));
  }
});

/** The kinds of a union that is told apart by one member: kind to the other members. */
function kindsOf(union: { readonly anyOf: readonly TSchema[] }, discriminator: string): Record<string, string[]> {
  return Object.fromEntries(
    (union.anyOf as readonly TObject[]).map(({ properties }) => [
      String(properties[discriminator]?.const),
      Object.keys(properties).filter((name) => name !== discriminator),
    ]),
  );
}

function kindsIn(table: Table, discriminator: string): Record<string, readonly string[]> {
  return Object.fromEntries(
    table.rows.map((row) => [plain(row[`\`${discriminator}\``]), codeSpans(row["Further members"] ?? "")]),
  );
}

test("column types and anonymization methods are listed with their members", () => {
  assert.deepEqual(kindsIn(tableOf(document, "Column types"), "type"), kindsOf(ColumnType, "type"));
  assert.deepEqual(kindsIn(tableOf(document, "Anonymization methods"), "method"), kindsOf(Anonymization, "method"));
});

test("the date formats of the column types are listed", () => {
  const date = (ColumnType.anyOf as readonly TObject[]).find(({ properties }) => properties["type"]?.const === "date");
  const formats = (date?.properties["format"]?.anyOf as readonly { readonly const: string }[]).map(
    (each) => each.const,
  );
  const row = tableOf(document, "Column types").rows.find((each) => plain(each["`type`"]) === "date");
  assert.deepEqual([...codeSpans(row?.["Reads"] ?? "")].sort(), [...formats].sort());
});

test("the folders of a configuration are the kinds of documents, and the parties", () => {
  const tree = sectionsOf(document).find(({ title }) => title === "A configuration folder")?.code[0]?.text ?? "";
  const folders = [...tree.matchAll(/^ {2}(\w+)\/<.*json/gm)].map((match) => match[1]);
  assert.deepEqual(folders.sort(), [...DOCUMENT_KINDS, "parties"].sort());
});

test("what starts an exchange is listed by flag, variable and member, and nothing else", () => {
  const table = tableOf(document, "Store, bus, sidecars and replicas");
  const listed = (column: string): string[] => table.rows.map((row) => plain(row[column]));
  assert.deepEqual(
    listed("Flag"),
    Object.keys(EXCHANGE_FLAGS).map((name) => `--${name}`),
  );
  const variables = listed("Environment").filter((name) => name !== "");
  assert.deepEqual(variables, Object.keys(CommandSettings.properties));
  assert.deepEqual(listed("`exchange.json`"), Object.keys(ExchangeFile.properties));
});

test("the example of exchange.json is one", () => {
  const section = sectionsOf(document).find(({ title }) => title.startsWith("Store, bus"));
  const example: unknown = JSON.parse(section?.code.find(({ language }) => language === "json")?.text ?? "");
  assert.equal(Value.Errors(ExchangeFile, example).First(), undefined);
});

test("the variables of a chain's containers are listed", () => {
  const listed = tableOf(document, "place in the chain").rows.map((row) => plain(row["Setting"]));
  assert.deepEqual([...listed].sort(), Object.values(CHAIN_VARIABLES).sort());
});

test("the meaning of every column of the sample is given", () => {
  const listed = tableOf(document, "The sample's tables").rows.map((row) => [
    plain(row["Table"]),
    plain(row["Column"]),
  ]);
  const columns = Object.entries(SAMPLE_TABLES).flatMap(([table, names]) => names.map((name) => [table, name]));
  assert.deepEqual(listed, columns);
});
