/**
 * sql-anonymize: makes the sensitive columns of a query's result safe, as the data set's metadata says.
 *
 * Which columns of a result are sensitive is decided by their origin (docs/decisions/0006): `column-origin.ts` reads it,
 * `methods.ts` changes values, `keyed-values.ts` does so under the steward's key.
 */
import { DataType, Field, makeData, RecordBatch, Schema, Struct, type Data, type Dictionary } from "apache-arrow";
import { columnReader } from "../../lib/data/column-reader.ts";
import { columnBuilderOf, textDictionary } from "../../lib/data/dictionary-column.ts";
import { ANONYMIZED } from "../../lib/data/field-metadata.ts";
import { fieldsOf, toArrowSchema, type CellValue, type FieldSpec } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";
import { anonymizationFault, hasSensitiveColumns } from "../../lib/model/anonymization.ts";
import type { Anonymization, Column, DataSet } from "../../lib/model/dataset.ts";
import { ruleOfField } from "./column-origin.ts";
import { columnMethod, type ColumnMethod } from "./methods.ts";

/** What an anonymizer works with. */
export interface AnonymizeOptions {
  /** Schema of the query's result, with the origin of each column in its metadata. */
  readonly schema: Schema;
  /** The data sets of the steward's grant. */
  readonly dataSets: readonly DataSet[];
  /** The query's text: compound statements make origins uncertain. */
  readonly query: string;
  /** The steward's key for pseudonyms and noise: at least 16 bytes. */
  readonly key: Uint8Array;
}

/** A transformer of batches. */
export interface Anonymizer {
  readonly outputFields: readonly FieldSpec[];
  readonly schema: Schema;
  /** Names of the columns that are left out. */
  readonly droppedColumns: readonly string[];
  transform(batch: RecordBatch): RecordBatch;
}

/**
 * Plans the transformation. Fails with `operation_denied` where a column's origin is not known, so that it might hold
 * sensitive values, or when no column is left; `configuration_invalid` for a method that does not fit its column's type.
 */
export function planAnonymization(options: AnonymizeOptions): Anonymizer {
  const { schema, dataSets } = options;
  const isOpen = !dataSets.some(hasSensitiveColumns);
  const specs = fieldsOf(schema);
  const plans = schema.fields.map((field, place) =>
    isOpen ? passing(field) : planColumn(field, place, specs[place] as FieldSpec, options),
  );
  const kept = plans.flatMap((plan, place) =>
    plan.field === undefined ? [] : [{ ...plan, field: plan.field, place }],
  );
  const droppedColumns = schema.fields.filter((_, place) => plans[place]?.field === undefined).map(({ name }) => name);
  if (kept.length === 0) {
    throw new AppError(
      "operation_denied",
      `Nothing is left of the result: the data steward leaves out every column of it (${droppedColumns.join(", ")}).`,
    );
  }
  const output = new Schema(
    kept.map(({ field }) => field),
    schema.metadata,
  );
  return { outputFields: fieldsOf(output), schema: output, droppedColumns, transform: transformer(output, kept) };
}

/** A column of the result: dropped (no field), passed on (no method) or changed. */
interface ColumnPlan {
  readonly field: Field | undefined;
  readonly method: ColumnMethod | undefined;
}

interface KeptColumn extends ColumnPlan {
  readonly field: Field;
  /** Where it is in the input. */
  readonly place: number;
}

function passing(field: Field): ColumnPlan {
  return { field, method: undefined };
}

function planColumn(
  field: Field,
  place: number,
  spec: FieldSpec,
  { dataSets, query, schema, key }: AnonymizeOptions,
): ColumnPlan {
  const rule = ruleOfField(field, { dataSets, query, schema });
  if (rule.kind === "open") return passing(field);
  if (rule.kind === "unknown") throw unknownOrigin(field.name);
  checkFits(rule.column, rule.anonymization);
  const method = columnMethod(rule.column.name, spec.type, rule.anonymization, key);
  if (method === undefined) return { field: undefined, method };
  return { field: changedField(field, place, method, rule.anonymization), method };
}

/** Texts that were not sent plain because they repeat, or that are made of other values, which often do, get a dictionary. */
function changedField(field: Field, place: number, { type }: ColumnMethod, { method }: Anonymization): Field {
  const [typed] = toArrowSchema([{ name: field.name, type, nullable: true }]).fields;
  if (typed === undefined) throw new AppError("internal", "A schema of one column has none.");
  const arrowType: DataType =
    type.kind === "text" && !isPlainText(field) ? dictionaryFor(field, place) : (typed.type as DataType);
  return new Field(field.name, arrowType, true, new Map([...field.metadata, [ANONYMIZED, method]]));
}

/** Its id is its own among the schema's: the one it had, or one beyond those that others may have. */
function dictionaryFor({ type }: Field, place: number): Dictionary {
  return textDictionary(DataType.isDictionary(type) ? type.id : FIRST_OWN_ID + place);
}

const FIRST_OWN_ID = 1_000_000;

function isPlainText({ type }: Field): boolean {
  return DataType.isUtf8(type) || DataType.isLargeUtf8(type);
}

/** Columns that stay are handed on as they are; only changed ones are built anew. */
function transformer(schema: Schema, kept: readonly KeptColumn[]): (batch: RecordBatch) => RecordBatch {
  const changes = kept.map(({ field, method, place }) => (method ? changedColumn(field, method, place) : undefined));
  return (batch) => {
    const children = kept.map(({ place }, index) => changes[index]?.(batch) ?? (batch.data.children[place] as Data));
    return new RecordBatch(
      schema,
      makeData({ type: new Struct(schema.fields), length: batch.numRows, nullCount: 0, children }),
    );
  };
}

/**
 * Builds a column anew from its values. A dictionary is never changed in place: texts that the method makes equal must not stay
 * two entries, which would tell them apart.
 */
function changedColumn(field: Field, method: ColumnMethod, place: number): (batch: RecordBatch) => Data {
  const [spec] = fieldsOf(new Schema([field]));
  if (spec === undefined) throw new AppError("internal", "A schema of one column has none.");
  const builder = columnBuilderOf(field.type as DataType, spec, 1024);
  return (batch) => {
    const reader = columnReader(batch, place);
    // Neighbours are often alike.
    let before: CellValue = null;
    let after = method.apply(null);
    for (let row = 0; row < batch.numRows; row++) {
      const value = reader.get(row);
      if (value !== before) [before, after] = [value, method.apply(value)];
      builder.set(row, after);
    }
    return builder.take(batch.numRows);
  };
}

function checkFits(column: Column, anonymization: Anonymization): void {
  const fault = anonymizationFault(column.type, anonymization);
  if (fault === undefined) return;
  throw new AppError(
    "configuration_invalid",
    `The column "${column.name}" cannot be anonymized as its data set says: ${anonymization.method} ${fault}.`,
    { details: { column: column.name } },
  );
}

function unknownOrigin(name: string): AppError {
  return new AppError(
    "operation_denied",
    `The result column "${name}" is computed, so it might hold values of a sensitive column, and the request is anonymized. ` +
      "Select columns as they are (a name after AS is fine; no expressions, no UNION, INTERSECT or EXCEPT), and let the " +
      "algorithm compute; or ask a query that does not read sensitive columns.",
    { details: { column: name } },
  );
}
