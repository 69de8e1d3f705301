/** Days and microseconds since 1970-01-01 as ISO 8601 text, over the whole range of Arrow's types (`Date` ends earlier). */

const MICROSECONDS_PER_DAY = 86_400_000_000n;

/** An ISO 8601 date (proleptic Gregorian) of a number of days since 1970-01-01; years past 9999 get a sign and six digits. */
export function isoDate(days: number): string {
  // Civil calendar from day numbers in eras of 400 years (H. Hinnant, "chrono-compatible low-level date algorithms").
  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const day = dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1;
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  return `${isoYear(year)}-${twoDigits(month)}-${twoDigits(day)}`;
}

/** An RFC 3339 instant in UTC; the fraction is left out where it is zero, else it has 3 or 6 digits. */
export function isoTimestamp(microseconds: bigint): string {
  let days = microseconds / MICROSECONDS_PER_DAY;
  let rest = microseconds % MICROSECONDS_PER_DAY;
  if (rest < 0n) {
    days -= 1n;
    rest += MICROSECONDS_PER_DAY;
  }
  const ofDay = Number(rest);
  const seconds = Math.floor(ofDay / 1_000_000);
  const time = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map(twoDigits).join(":");
  return `${isoDate(Number(days))}T${time}${fraction(ofDay % 1_000_000)}Z`;
}

function fraction(microseconds: number): string {
  if (microseconds === 0) return "";
  const digits = String(microseconds).padStart(6, "0");
  return `.${digits.endsWith("000") ? digits.slice(0, 3) : digits}`;
}

function isoYear(year: number): string {
  if (year >= 0 && year <= 9999) return String(year).padStart(4, "0");
  return `${year < 0 ? "-" : "+"}${String(Math.abs(year)).padStart(6, "0")}`;
}

function twoDigits(value: number): string {
  return value < 10 ? `0${value}` : String(value);
}
