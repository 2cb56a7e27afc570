"""Documents for tests: PDF by hand, DOCX by its library, and what attackers make of both."""

import io
import zipfile
import zlib

import docx
from pypdf import PdfReader, PdfWriter

PART = "word/document.xml"


def pdf(*pages: str, content: bytes | None = None) -> bytes:
    """A PDF file with a page for each text; `content` is the compressed content of all pages instead."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    kids = []
    for text in pages:
        stream = content or zlib.compress(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode("latin-1"))
        head = f"<< /Length {len(stream)} /Filter /FlateDecode >>".encode()
        objects.append(head + b"\nstream\n" + stream + b"\nendstream")
        number = len(objects)
        kids.append(f"{number + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    data, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode() + table
    return data + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()


def encrypted_pdf(text: str, password: str) -> bytes:
    """A PDF file that opens with this password."""
    writer = PdfWriter(PdfReader(io.BytesIO(pdf(text))))
    writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def pdf_bomb(unpacked: int = 300 * 1024 * 1024) -> bytes:
    """A PDF file whose page is that large when it is unpacked."""
    packer = zlib.compressobj(9)
    block = b" " * 1024 * 1024
    content = b"".join(packer.compress(block) for _ in range(unpacked // len(block))) + packer.flush()
    return pdf("x", content=content)


def word(*paragraphs: str, table: list[list[str]] | None = None) -> bytes:
    """A DOCX file."""
    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    if table is not None:
        made = document.add_table(len(table), len(table[0]))
        for row, texts in zip(made.rows, table, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def word_with(part: str, data: bytes, base: bytes | None = None) -> bytes:
    """A DOCX file with this in the place of one of its parts, or besides them."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(base or word("x"))) as old,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            if info.filename != part:
                new.writestr(info, old.read(info))
        new.writestr(part, data)
    return made.getvalue()
