/**
 * What an agreement allows (thesis, chapter 3): an agreement and a question in, permission or a reasoned refusal out.
 * Pure. The policy enforcer asks it for every steward of an approval, an agent for its own steward at every data request.
 */
import { canonicalAlgorithmName } from "../algorithms/registry.ts";
import { AppError } from "../errors.ts";
import type { Refusal, RefusalCode, StewardValidation } from "../messages.ts";
import type { Agreement, Relation } from "../model/agreement.ts";
import { findTable, type DataSet, type Table } from "../model/dataset.ts";
import type { Grant } from "../model/grant.ts";

/** What is asked of one steward. */
export interface AgreementQuestion {
  readonly userName: string;
  /** The request type's name. */
  readonly type: string;
  /** Data sets that the request is about; absent: all that the relation grants; empty: none (of a third party). */
  readonly dataSets?: readonly string[];
  /** Algorithms that the request names; absent: not known yet, so not decided here. */
  readonly algorithms?: readonly string[];
}

/**
 * Evaluates one steward's agreement (undefined: there is none) at the instant `nowMs`. What counts is the intersection
 * of the relation's and the steward's own lists. The answer's lists are sorted, so that equal agreements answer equally.
 */
export function evaluateAgreement(
  agreement: Agreement | undefined,
  agreementRevision: number,
  question: AgreementQuestion,
  steward: string,
  nowMs: number,
): StewardValidation {
  const relation = agreement && findRelation(agreement, question.userName);
  const archetypes = agreement && relation ? intersection(relation.allowedArchetypes, agreement.archetypes) : [];
  const refusal = firstRefusal(agreement, relation, archetypes, question, steward, nowMs);
  if (refusal !== undefined || agreement === undefined || relation === undefined) {
    return {
      steward,
      ...(refusal ? { refusal } : {}),
      allowedArchetypes: [],
      allowedComputeProviders: [],
      dataSets: [],
      agreementRevision: agreement ? agreementRevision : 0,
    };
  }
  return {
    steward,
    allowedArchetypes: archetypes,
    allowedComputeProviders: intersection(relation.allowedComputeProviders, agreement.computeProviders),
    dataSets: [...(question.dataSets ?? relation.dataSets)].sort(),
    agreementRevision,
  };
}

/** The relation of this user, or undefined. User names are any text, so no name of `Object.prototype` is found by accident. */
export function findRelation(agreement: Agreement, userName: string): Relation | undefined {
  return Object.hasOwn(agreement.relations, userName) ? agreement.relations[userName] : undefined;
}

/** The members of a grant that an agreement decides. */
export type GrantedScope = Pick<
  Grant,
  "dataSets" | "minimumGroupSize" | "rawRows" | "operations" | "agreementRevision"
>;

/**
 * What a relation grants on the data sets named: only the granted tables and columns remain in their documents, so that
 * nothing else exists for whoever works under the grant (decision 12). A data set of which no column is granted is left
 * out. A granted data set without a document is `configuration_invalid`.
 */
export function grantFor(
  relation: Relation,
  agreementRevision: number,
  dataSetNames: readonly string[],
  documents: readonly DataSet[],
): GrantedScope {
  const granted = dataSetNames.filter((name) => relation.dataSets.includes(name));
  return {
    dataSets: granted.flatMap((name) => {
      const document = documents.find((candidate) => candidate.name === name);
      if (document === undefined) {
        throw new AppError("configuration_invalid", `The agreement grants data set "${name}", which has no document.`, {
          details: { dataSet: name, known: documents.map((known) => known.name).sort() },
        });
      }
      return narrowDataSet(document, relation);
    }),
    minimumGroupSize: relation.minimumGroupSize ?? 1,
    rawRows: relation.rawRows ?? false,
    ...(relation.operations === undefined ? {} : { operations: relation.operations }),
    agreementRevision,
  };
}

function firstRefusal(
  agreement: Agreement | undefined,
  relation: Relation | undefined,
  archetypes: readonly string[],
  question: AgreementQuestion,
  steward: string,
  nowMs: number,
): Refusal | undefined {
  if (agreement === undefined) return refuse("no_agreement", `${steward} has no agreement.`);
  if (relation === undefined) return refuse("no_relation", `${steward}'s agreement has no relation for this user.`);
  const validity = validityFault(relation, nowMs);
  if (validity !== undefined) {
    return refuse("relation_not_valid_now", `${steward}'s agreement with this user ${validity}.`);
  }
  if (!relation.requestTypes.includes(question.type)) {
    return refuse(
      "request_type_not_allowed",
      `${steward} does not allow this user request type "${question.type}"; allowed: ${listed(relation.requestTypes)}.`,
    );
  }
  const denied = (question.dataSets ?? []).filter((name) => !relation.dataSets.includes(name));
  if (denied.length > 0 || (question.dataSets === undefined && relation.dataSets.length === 0)) {
    const asked = denied.length > 0 ? `data set ${listed(denied)}` : "any data set";
    return refuse(
      "data_set_not_allowed",
      `${steward} does not allow this user ${asked}; allowed: ${listed(relation.dataSets)}.`,
    );
  }
  const operations = relation.operations;
  const allowed = operations?.map(canonicalAlgorithmName);
  const operation = question.algorithms?.find((name) => allowed?.includes(canonicalAlgorithmName(name)) === false);
  if (operation !== undefined) {
    return refuse(
      "operation_not_allowed",
      `${steward} does not allow this user the operation "${operation}"; allowed: ${listed(operations ?? [])}.`,
    );
  }
  if (archetypes.length === 0) {
    return refuse(
      "no_archetype_allowed",
      `${steward} allows this user ${listed(relation.allowedArchetypes)}, and itself ${listed(agreement.archetypes)}: no archetype is in both.`,
    );
  }
  return undefined;
}

function refuse(code: RefusalCode, detail: string): Refusal {
  return { code, detail };
}

/** The relation counts from `validFrom` (included) until `validUntil` (excluded). An instant that cannot be read closes it. */
function validityFault(relation: Relation, nowMs: number): string | undefined {
  const { validFrom, validUntil } = relation;
  if (validFrom !== undefined && !(Date.parse(validFrom) <= nowMs)) return `counts only from ${validFrom}`;
  if (validUntil !== undefined && !(nowMs < Date.parse(validUntil))) return `ended at ${validUntil}`;
  return undefined;
}

function intersection(left: readonly string[], right: readonly string[]): string[] {
  return [...new Set(left)].filter((name) => right.includes(name)).sort();
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? "none" : names.map((name) => `"${name}"`).join(", ");
}

function narrowDataSet(document: DataSet, relation: Relation): DataSet[] {
  const limits = relation.columns;
  if (limits === undefined || !Object.hasOwn(limits, document.name)) return [document];
  const tables = Object.entries(limits[document.name]?.tables ?? {}).flatMap(([name, columns]) => {
    const table = findTable(document, name);
    return table === undefined ? [] : narrowTable(table, columns);
  });
  if (tables.length === 0) return [];
  const { anonymization, ...rest } = document;
  return [
    {
      ...rest,
      tables,
      sensitive_columns: narrowByTable(document.sensitive_columns, tables, (columns, table) =>
        columns.filter((column) => hasColumn(table, column)),
      ),
      ...(anonymization === undefined
        ? {}
        : {
            anonymization: narrowByTable(anonymization, tables, (methods, table) =>
              Object.fromEntries(Object.entries(methods).filter(([column]) => hasColumn(table, column))),
            ),
          }),
    },
  ];
}

function narrowTable(table: Table, columns: "*" | readonly string[]): Table[] {
  if (columns === "*") return [table];
  const wanted = new Set(columns.map((column) => column.toLowerCase()));
  const granted = table.columns.filter((column) => wanted.has(column.name.toLowerCase()));
  return granted.length === 0 ? [] : [{ ...table, columns: granted }];
}

function narrowByTable<Value>(
  byTable: Readonly<Record<string, Value>>,
  tables: readonly Table[],
  narrow: (value: Value, table: Table) => Value,
): Record<string, Value> {
  return Object.fromEntries(
    Object.entries(byTable).flatMap(([name, value]) => {
      const table = tables.find((candidate) => candidate.name.toLowerCase() === name.toLowerCase());
      return table === undefined ? [] : [[name, narrow(value, table)] as const];
    }),
  );
}

function hasColumn(table: Table, column: string): boolean {
  return table.columns.some((candidate) => candidate.name.toLowerCase() === column.toLowerCase());
}
