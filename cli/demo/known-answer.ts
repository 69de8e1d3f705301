/**
 * The right answer to the demo's question, computed from the files without anything of the system: no loader, no SQL, no
 * algorithm of ours. Salaries are summed as whole cents.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** Average full-time salary by sex, in euros; rows without a salary or sex do not count. */
export type AverageBySex = ReadonlyMap<string, number>;

/**
 * The average of `Aanst_22` by `Geslacht` over all pairs of a person's row and an appointment's row with the same number and
 * reference date, in the files of these stewards together.
 *
 * @param dataFolder holds one folder per steward with `Personen.csv` and `Aanstellingen.csv`.
 */
export async function averageSalaryBySex(dataFolder: string, stewards: readonly string[]): Promise<AverageBySex> {
  const cents = new Map<string, { sum: bigint; count: bigint }>();
  for (const steward of stewards) {
    const persons = await readTable(join(dataFolder, steward, "Personen.csv"));
    const sexOf = new Map<string, string[]>();
    for (const person of persons) {
      const key = `${person["Unieknr"] ?? ""} ${person["Peildat"] ?? ""}`;
      sexOf.set(key, [...(sexOf.get(key) ?? []), person["Geslacht"] ?? ""]);
    }
    for (const appointment of await readTable(join(dataFolder, steward, "Aanstellingen.csv"))) {
      const salary = appointment["Aanst_22"] ?? "";
      if (salary === "") continue;
      for (const sex of sexOf.get(`${appointment["Unieknr"] ?? ""} ${appointment["Peildat"] ?? ""}`) ?? []) {
        const total = cents.get(sex) ?? { sum: 0n, count: 0n };
        cents.set(sex, { sum: total.sum + toCents(salary), count: total.count + 1n });
      }
    }
  }
  return new Map([...cents].map(([sex, { sum, count }]) => [sex, Number(sum) / Number(count) / 100]));
}

async function readTable(path: string): Promise<Record<string, string>[]> {
  const [header = "", ...lines] = (await readFile(path, "utf8")).replace(/^\uFEFF/, "").split(/\r*\n|\r/);
  const names = header.split(";").map(unquote);
  return lines
    .filter((line) => line !== "")
    .map((line) => Object.fromEntries(line.split(";").map((cell, index) => [names[index] ?? "", unquote(cell)])));
}

function unquote(cell: string): string {
  return cell.replace(/^"(.*)"$/, "$1").replaceAll('""', '"');
}

function toCents(amount: string): bigint {
  const [whole = "0", fraction = ""] = amount.split(/[.,]/);
  return BigInt(whole + fraction.padEnd(2, "0").slice(0, 2));
}
