"""casstore save --slug."""


def test_saving_by_slug(cli, files):
    error = cli("save", "meta-llama/Llama-3:v1.0+cu118", files, "--json", code=2).error
    assert (error["type"], error["suggestion"]) == ("InvalidTag", "meta-llama--llama-3:v1.0-cu118")
    done = cli("save", "--slug", "meta-llama/Llama-3:v1.0+cu118", files)
    assert (done.out.split("\t")[0], done.err) == ("meta-llama--llama-3:v1.0-cu118", "")
