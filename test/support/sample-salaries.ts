/** What the sample's files say of salaries, computed from the files alone. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";

/** Average salary by sex over the sample's files of these stewards: whole cents until the division, then two decimals. */
export async function averageSalaries(
  stewards: readonly string[],
  dataFolder: string = join(packageRoot, "configuration", "data"),
): Promise<Map<string, string>> {
  const sums = new Map<string, { cents: bigint; count: bigint }>();
  for (const steward of stewards) {
    const sexes = new Map<string, string>();
    for (const row of await rowsOf(dataFolder, steward, "Personen")) {
      sexes.set(`${String(row["Unieknr"])} ${String(row["Peildat"])}`, row["Geslacht"] ?? "");
    }
    for (const row of await rowsOf(dataFolder, steward, "Aanstellingen")) {
      const sex = sexes.get(`${String(row["Unieknr"])} ${String(row["Peildat"])}`);
      const [euros = "", cents = ""] = (row["Aanst_22"] ?? "").split(",");
      if (sex === undefined || euros === "") continue;
      const { cents: sum, count } = sums.get(sex) ?? { cents: 0n, count: 0n };
      sums.set(sex, { cents: sum + BigInt(euros + cents.padEnd(2, "0")), count: count + 1n });
    }
  }
  return new Map([...sums].map(([sex, { cents, count }]) => [sex, (Number(cents) / Number(count) / 100).toFixed(2)]));
}

/** The sample's files have neither quotes nor line breaks in fields. */
async function rowsOf(dataFolder: string, steward: string, table: string): Promise<Record<string, string>[]> {
  const text = await readFile(join(dataFolder, steward, `${table}.csv`), "utf8");
  const [header = "", ...lines] = text
    .replace(/^\uFEFF/, "")
    .split(/\r?\n/)
    .filter((line) => line !== "");
  if (text.includes('"')) throw new Error(`${steward}'s ${table}.csv has quotes, which are not read here.`);
  const names = header.split(";");
  return lines.map((line) => Object.fromEntries(line.split(";").map((cell, place) => [names[place] ?? "", cell])));
}
