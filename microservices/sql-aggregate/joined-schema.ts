/** One schema for the streams of several data providers: their columns by name, with types that take all values. Pure. */
import { Field, Schema } from "apache-arrow";
import { isSameType, typeInWords, widenTypes } from "../../lib/algorithms/widening.ts";
import { PROVIDER_COLUMN, TYPE_UNKNOWN } from "../../lib/data/field-metadata.ts";
import { fieldsOf, toArrowSchema, type FieldSpec, type FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";

/** A provider's stream, as far as its schema goes. */
export interface ProviderSchema {
  readonly provider: string;
  readonly schema: Schema;
}

/** The joined schema. */
export interface JoinedSchema {
  /** First the provider's name, then the columns in the order of the first provider by name. */
  readonly schema: Schema;
  readonly fields: readonly FieldSpec[];
  /** Per provider, the place of each joined column (without the first) in its own batches, and the type that it has there. */
  readonly sources: ReadonlyMap<string, readonly SourceColumn[]>;
}

/** A joined column at one provider. */
export interface SourceColumn {
  readonly place: number;
  readonly from: FieldType;
  readonly to: FieldType;
}

/** The column with the provider's name, unless the query has one of this name: then `provider_1`, and so on. */
export const PROVIDER = "provider";

/**
 * Joins the schemas. Fails with `column_unknown` (and the party) for a column that a provider lacks, with `type_mismatch`
 * for types that do not widen, with `invalid_argument` when there is no provider or one twice.
 */
export function joinSchemas(inputs: readonly ProviderSchema[]): JoinedSchema {
  const sorted = [...inputs].sort((a, b) => (a.provider < b.provider ? -1 : 1));
  const [first] = sorted;
  if (first === undefined) throw new AppError("invalid_argument", "There are no streams to join.");
  if (new Set(sorted.map(({ provider }) => provider)).size < sorted.length) {
    throw new AppError("invalid_argument", "Two streams to join have the same provider.");
  }
  for (const input of sorted) checkColumns(first, input);
  const columns = first.schema.fields.map((field) => joinColumn(field, sorted));
  const providerColumn = freeName(first.schema.fields.map(({ name }) => name));
  const schema = new Schema(
    [...toArrowSchema([{ name: providerColumn, type: { kind: "text" }, nullable: false }]).fields, ...columns],
    new Map([...first.schema.metadata, [PROVIDER_COLUMN, providerColumn]]),
  );
  const fields = fieldsOf(schema);
  const sources = new Map(sorted.map((input) => [input.provider, sourcesOf(input, fields.slice(1))]));
  return { schema, fields, sources };
}

function checkColumns(first: ProviderSchema, input: ProviderSchema): void {
  requireColumns(first, input);
  requireColumns(input, first);
}

/** Each column of `from` is there in `input`, too. */
function requireColumns(from: ProviderSchema, input: ProviderSchema): void {
  const known = input.schema.fields.map(({ name }) => name);
  for (const { name } of from.schema.fields) {
    if (known.includes(name)) continue;
    throw new AppError(
      "column_unknown",
      `The result of ${input.provider} has no column "${name}", which ${from.provider} has, so they cannot be joined. It has: ` +
        `${known.join(", ")}. Name the columns in the query instead of *.`,
      { party: input.provider, details: { column: name, known } },
    );
  }
}

function joinColumn(field: Field, inputs: readonly ProviderSchema[]): Field {
  let joined: FieldSpec | undefined;
  for (const { provider, schema } of inputs) {
    const own = fieldNamed(schema, field.name);
    const [spec] = fieldsOf(new Schema([own]));
    if (spec === undefined || own.metadata.get(TYPE_UNKNOWN) === "true") continue;
    joined = joined === undefined ? spec : widened(joined, spec, provider);
  }
  if (joined === undefined) return field;
  const nullable = inputs.some(({ schema }) => fieldNamed(schema, field.name).nullable);
  const [typed] = toArrowSchema([{ ...joined, nullable }]).fields;
  const metadata = [...field.metadata].filter(([key]) => key !== TYPE_UNKNOWN);
  return new Field(field.name, (typed as Field).type, nullable, new Map(metadata));
}

function widened(joined: FieldSpec, own: FieldSpec, provider: string): FieldSpec {
  const type = widenTypes(joined.type, own.type);
  if (type !== undefined) return { ...joined, type };
  throw new AppError(
    "type_mismatch",
    `The column "${own.name}" is ${typeInWords(own.type)} at ${provider}, but ${typeInWords(joined.type)} elsewhere, and no type ` +
      "takes both. CAST it to one type in the query.",
    { party: provider, details: { column: own.name, types: [typeInWords(joined.type), typeInWords(own.type)] } },
  );
}

function sourcesOf({ schema }: ProviderSchema, columns: readonly FieldSpec[]): readonly SourceColumn[] {
  const specs = fieldsOf(schema);
  return columns.map(({ name, type }) => {
    const place = specs.findIndex((spec) => spec.name === name);
    const isUnknown = schema.fields[place]?.metadata.get(TYPE_UNKNOWN) === "true";
    return { place, from: isUnknown ? type : (specs[place]?.type ?? type), to: type };
  });
}

/** Whether a column's buffers can be handed on as they are. */
export function isUnchanged({ from, to }: SourceColumn): boolean {
  return isSameType(from, to);
}

function fieldNamed(schema: Schema, name: string): Field {
  return schema.fields.find((field) => field.name === name) as Field;
}

function freeName(taken: readonly string[]): string {
  const lower = new Set(taken.map((name) => name.toLowerCase()));
  let name = PROVIDER;
  for (let number = 1; lower.has(name); number++) name = `${PROVIDER}_${number}`;
  return name;
}
