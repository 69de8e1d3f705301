/**
 * What documents must be to one another before any is stored: names that exist, chains that are chains, columns that are
 * there. Each rule takes all documents as they would be afterwards. Pure; the config API and the seeding ask it.
 */
import { generateChain } from "../lib/chain/chain.ts";
import { rolesOf, validateChainMetadata } from "../lib/chain/metadata.ts";
import { AppError, type ErrorCode } from "../lib/errors.ts";
import type { DocumentKind, DocumentOf } from "../lib/knowledge/knowledge-base.ts";
import type { Agreement } from "../lib/model/agreement.ts";
import { anonymizationFault } from "../lib/model/anonymization.ts";
import { findTable, type Column, type DataSet, type Table } from "../lib/model/dataset.ts";
import type { ForcedServices } from "../lib/model/request-type.ts";

/** All documents, by kind. */
export type Documents = { readonly [Kind in DocumentKind]: readonly DocumentOf<Kind>[] };

/** A rule that is broken, and where. */
export class RuleBreach extends AppError {
  readonly kind: DocumentKind;
  /** The document at fault, which need not be the one that is being written. */
  readonly document: string;

  constructor(code: ErrorCode, kind: DocumentKind, document: string, pointer: string, message: string, details = {}) {
    super(code, `${message}.`, { place: { pointer }, details: { kind, document, ...details } });
    this.kind = kind;
    this.document = document;
  }
}

/** Checks all rules; the first breach is thrown (`configuration_invalid` or `chain_invalid`). */
export function checkDocuments(documents: Documents): void {
  if (documents.requestTypes.length > 0 || documents.microservices.length > 0) validateChainMetadata(documents);
  for (const dataSet of documents.datasets) checkDataSet(dataSet);
  for (const agreement of documents.agreements) checkAgreement(agreement, documents);
  for (const forced of documents.forcedServices) checkForcedServices(forced, documents);
}

function checkDataSet(dataSet: DataSet): void {
  const breach = (pointer: string, message: string): RuleBreach =>
    new RuleBreach(
      "configuration_invalid",
      "datasets",
      dataSet.name,
      pointer,
      `Data set "${dataSet.name}": ${message}`,
    );
  unique(dataSet.tables, (index) => breach(`/tables/${String(index)}/name`, "two tables have the same name"));
  dataSet.tables.forEach((table, index) => {
    unique(table.columns, (column) =>
      breach(
        `/tables/${String(index)}/columns/${String(column)}/name`,
        `two columns of ${table.name} have the same name`,
      ),
    );
    table.columns.forEach(({ name, type }, column) => {
      if (type.type !== "decimal" || type.scale <= type.precision) return;
      throw breach(
        `/tables/${String(index)}/columns/${String(column)}/type/scale`,
        `${table.name}.${name} has scale ${String(type.scale)}, more than its precision ${String(type.precision)}`,
      );
    });
  });
  for (const [tableName, columns] of Object.entries(dataSet.sensitive_columns)) {
    const table = requireTable(dataSet, tableName, `/sensitive_columns/${tableName}`, breach);
    columns.forEach((column, index) =>
      requireColumn(table, column, `/sensitive_columns/${tableName}/${String(index)}`, breach),
    );
  }
  for (const [tableName, methods] of Object.entries(dataSet.anonymization ?? {})) {
    const table = requireTable(dataSet, tableName, `/anonymization/${tableName}`, breach);
    for (const [column, method] of Object.entries(methods)) {
      const pointer = `/anonymization/${tableName}/${column}`;
      const fault = anonymizationFault(requireColumn(table, column, pointer, breach).type, method);
      if (fault !== undefined) throw breach(pointer, `${tableName}.${column}: ${method.method} ${fault}`);
    }
  }
}

function checkAgreement(agreement: Agreement, documents: Documents): void {
  const breach: MakeBreach = (pointer, message, details) =>
    new RuleBreach(
      "configuration_invalid",
      "agreements",
      agreement.name,
      pointer,
      `The agreement of ${agreement.name}: ${message}`,
      details,
    );
  requireNames("archetype", agreement.archetypes, documents.archetypes, "/archetypes", breach);
  for (const [userName, relation] of Object.entries(agreement.relations)) {
    const at = `/relations/${escapePointer(userName)}`;
    requireNames("archetype", relation.allowedArchetypes, documents.archetypes, `${at}/allowedArchetypes`, breach);
    requireNames("request type", relation.requestTypes, documents.requestTypes, `${at}/requestTypes`, breach);
    requireNames("data set", relation.dataSets, documents.datasets, `${at}/dataSets`, breach);
    for (const member of ["validFrom", "validUntil"] as const) {
      const instant = relation[member];
      if (instant === undefined || isInstant(instant)) continue;
      throw breach(`${at}/${member}`, `"${instant}" is no instant (RFC 3339), such as 2026-01-31T00:00:00Z`);
    }
    for (const [name, { tables }] of Object.entries(relation.columns ?? {})) {
      const dataSet = documents.datasets.find((candidate) => candidate.name === name);
      if (dataSet === undefined || !relation.dataSets.includes(name)) {
        throw breach(
          `${at}/columns/${name}`,
          `columns are granted of data set "${name}", which the relation does not grant`,
        );
      }
      for (const [tableName, columns] of Object.entries(tables)) {
        const pointer = `${at}/columns/${name}/tables/${tableName}`;
        const table = requireTable(dataSet, tableName, pointer, breach);
        if (columns === "*") continue;
        columns.forEach((column, index) => requireColumn(table, column, `${pointer}/${String(index)}`, breach));
      }
    }
  }
}

/** Forced services must leave a chain, whatever else is asked for. */
function checkForcedServices(forced: ForcedServices, documents: Documents): void {
  const breach: MakeBreach = (pointer, message, details) =>
    new RuleBreach(
      "chain_invalid",
      "forcedServices",
      forced.data_steward,
      pointer,
      `The forced services of ${forced.data_steward}: ${message}`,
      details,
    );
  for (const [name, services] of Object.entries(forced.types)) {
    requireNames("microservice", services, documents.microservices, `/types/${name}`, breach);
    const requestType = documents.requestTypes.find((candidate) => candidate.name === name);
    if (requestType === undefined) {
      throw breach(`/types/${name}`, `there is no request type "${name}"`, {
        known: documents.requestTypes.map((known) => known.name),
      });
    }
    for (const archetype of documents.archetypes) {
      for (const role of rolesOf(archetype)) {
        try {
          generateChain({
            requestType,
            microservices: documents.microservices,
            archetype: archetype.name,
            role,
            forced: services,
          });
        } catch (thrown) {
          throw breach(`/types/${name}`, thrown instanceof Error ? thrown.message.replace(/\.$/, "") : String(thrown));
        }
      }
    }
  }
}

type MakeBreach = (pointer: string, message: string, details?: Readonly<Record<string, unknown>>) => RuleBreach;

function requireNames(
  kind: string,
  names: readonly string[],
  known: readonly { readonly name: string }[],
  pointer: string,
  breach: MakeBreach,
): void {
  names.forEach((name, index) => {
    if (known.some((document) => document.name === name)) return;
    throw breach(`${pointer}/${String(index)}`, `there is no ${kind} "${name}"`, {
      known: known.map((document) => document.name).sort(),
    });
  });
}

function requireTable(dataSet: DataSet, name: string, pointer: string, breach: MakeBreach): Table {
  const table = findTable(dataSet, name);
  if (table !== undefined) return table;
  const known = dataSet.tables.map((candidate) => candidate.name);
  throw breach(pointer, `data set "${dataSet.name}" has no table "${name}"`, { known });
}

function requireColumn(table: Table, name: string, pointer: string, breach: MakeBreach): Column {
  const found = table.columns.find((column) => column.name.toLowerCase() === name.toLowerCase());
  if (found !== undefined) return found;
  const known = table.columns.map((column) => column.name);
  throw breach(pointer, `table "${table.name}" has no column "${name}"`, { known });
}

/** SQL compares names without case. */
function unique(items: readonly { readonly name: string }[], breach: (index: number) => RuleBreach): void {
  const seen = new Set<string>();
  items.forEach(({ name }, index) => {
    if (seen.has(name.toLowerCase())) throw breach(index);
    seen.add(name.toLowerCase());
  });
}

function isInstant(text: string): boolean {
  return (
    /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})$/i.test(text) && !Number.isNaN(Date.parse(text))
  );
}

/** A member's name in a JSON pointer (RFC 6901, section 3). */
function escapePointer(name: string): string {
  return name.replaceAll("~", "~0").replaceAll("/", "~1");
}
