/** Which columns of a data set are sensitive, what is done to them, and whether that fits their types. Pure. */
import { findTable, type Anonymization, type Column, type ColumnType, type DataSet } from "./dataset.ts";

/** What has to happen to a column of a table. */
export type ColumnRule =
  | { readonly kind: "unknown" }
  | { readonly kind: "open" }
  | { readonly kind: "sensitive"; readonly column: Column; readonly anonymization: Anonymization };

/** The rule for a column (names in any case, as in SQL). A sensitive column without a method of its own is dropped. */
export function columnRule(dataSet: DataSet, tableName: string, columnName: string): ColumnRule {
  const column = findTable(dataSet, tableName)?.columns.find(({ name }) => isSameName(name, columnName));
  if (column === undefined) return { kind: "unknown" };
  const sensitive = valueOf(dataSet.sensitive_columns, tableName) ?? [];
  const methods = valueOf(dataSet.anonymization ?? {}, tableName) ?? {};
  const anonymization = valueOf(methods, columnName);
  if (anonymization === undefined && !sensitive.some((name) => isSameName(name, columnName))) return { kind: "open" };
  return { kind: "sensitive", column, anonymization: anonymization ?? { method: "drop" } };
}

/** Whether any column of the data set is sensitive. */
export function hasSensitiveColumns(dataSet: DataSet): boolean {
  return dataSet.tables.some((table) =>
    table.columns.some((column) => columnRule(dataSet, table.name, column.name).kind === "sensitive"),
  );
}

/** Why a method cannot be used on a column of this type; undefined when it can. Completes "… cannot be used: it …". */
export function anonymizationFault(type: ColumnType, anonymization: Anonymization): string | undefined {
  switch (anonymization.method) {
    case "generalize":
      return generalizeFault(type, anonymization);
    case "perturb":
      return perturbFault(type, anonymization.range);
    case "mask":
    case "pseudonymize":
    case "drop":
      return undefined;
  }
}

function generalizeFault(
  type: ColumnType,
  { width, unit, keep }: Anonymization & { method: "generalize" },
): string | undefined {
  switch (type.type) {
    case "integer":
    case "decimal":
    case "float":
      if (width === undefined) return `needs a width for a column of type ${type.type}`;
      return stepFault(type, "width", width);
    case "date":
    case "timestamp":
      return unit === undefined
        ? `needs a unit (month, quarter, year, decade) for a column of type ${type.type}`
        : undefined;
    case "text":
      return keep === undefined
        ? "needs keep, the number of characters that stay, for a column of type text"
        : undefined;
    case "boolean":
      return "has no wider values for a column of type boolean; use mask or drop";
  }
}

function perturbFault(type: ColumnType, range: number): string | undefined {
  switch (type.type) {
    case "integer":
    case "decimal":
    case "float":
      return stepFault(type, "range", range);
    case "date":
      return range < 1 ? "moves dates by whole days, so range is at least 1" : undefined;
    case "timestamp":
      return undefined;
    case "text":
    case "boolean":
      return `moves numbers and dates, not values of type ${type.type}; use pseudonymize, mask or drop`;
  }
}

/** A step must be a multiple of the last digit that the type has, so that results are of the same type. */
function stepFault(type: ColumnType, name: string, step: number): string | undefined {
  if (type.type === "float") return undefined;
  const scale = type.type === "decimal" ? type.scale : 0;
  const [mantissa = "", power = "0"] = step.toExponential().split("e");
  const digitsAfterPoint = (mantissa.split(".")[1] ?? "").length - Number(power);
  if (digitsAfterPoint <= scale) return undefined;
  return `needs a ${name} of at most ${scale} digits after the point for a column of type ${type.type}, not ${step}`;
}

function isSameName(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}

function valueOf<Value>(record: Readonly<Record<string, Value>>, name: string): Value | undefined {
  return Object.entries(record).find(([key]) => isSameName(key, name))?.[1];
}
