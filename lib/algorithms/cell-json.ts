/** Values and types in JSON without any loss: what summaries travel in. */
import { Type, type Static } from "@sinclair/typebox";
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";

/** A column's type in JSON. */
export const FieldTypeJson = Type.Union([
  Type.Object(
    {
      kind: Type.Union([
        Type.Literal("integer"),
        Type.Literal("float"),
        Type.Literal("boolean"),
        Type.Literal("text"),
        Type.Literal("date"),
        Type.Literal("timestamp"),
      ]),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      kind: Type.Literal("decimal"),
      precision: Type.Integer({ minimum: 1, maximum: 38 }),
      scale: Type.Integer({ minimum: 0, maximum: 38 }),
    },
    { additionalProperties: false },
  ),
]);

/** A value in JSON: bigints and the floats that JSON lacks (NaN, infinities, -0) as text. */
export const CellJson = Type.Union([Type.String(), Type.Number(), Type.Boolean(), Type.Null()]);
export type CellJson = Static<typeof CellJson>;

/** A value as JSON; {@link cellFromJson} gives the same value back, bit for bit. */
export function cellAsJson(value: CellValue): CellJson {
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0))) {
    return Object.is(value, -0) ? "-0" : String(value);
  }
  return value;
}

/** The value of this type that a JSON value stands for; `data_invalid` for anything that cannot be one. */
export function cellFromJson(type: FieldType, json: CellJson): CellValue {
  if (json === null) return null;
  switch (type.kind) {
    case "integer":
    case "timestamp":
      if (isIntegerText(json) && BigInt.asIntN(64, BigInt(json)) === BigInt(json)) return BigInt(json);
      break;
    case "decimal":
      if (isIntegerText(json) && json.replace("-", "").length <= 38) return BigInt(json);
      break;
    case "float":
      if (typeof json === "number") return json;
      if (typeof json === "string" && ["NaN", "Infinity", "-Infinity", "-0"].includes(json)) return Number(json);
      break;
    case "date":
      if (Number.isInteger(json) && Math.abs(json as number) < 2 ** 31) return json;
      break;
    case "boolean":
      if (typeof json === "boolean") return json;
      break;
    case "text":
      if (typeof json === "string") return json;
      break;
  }
  throw new AppError("data_invalid", `A summary holds a value that is not of type ${type.kind}.`);
}

function isIntegerText(json: CellJson): json is string {
  return typeof json === "string" && /^-?(0|[1-9][0-9]{0,39})$/.test(json);
}
